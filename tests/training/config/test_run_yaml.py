"""run.yaml and --set: what they say is what a run gets, texts as texts and numbers as numbers."""

import subprocess
import sys

import pytest

from hybridopt import HybridOptError
from hybridopt.training.config.reading import OptionValue, read_run, run_of
from hybridopt.training.config.run import Data, LoraSettings, Method, Output, Run, Train

BASE = "model: org/name\ndata: rows.jsonl\n"
READ = Run("org/name", data=Data(train=("rows.jsonl",)))

# ---- what is read


@pytest.mark.parametrize(
    ("text", "section", "expected"),
    [
        ("gpu: 4090", None, {"gpu": "4090"}),
        ("train: {lr: 1e-4}", "train", {"lr": 1e-4}),
        ("train: {lr: 1E-4, clip: null, epochs: 3}", "train", {"lr": 1e-4, "clip": None, "epochs": 3.0}),
        ("train: {lr: auto, batch: 2.0, seed: 1_000}", "train", {"lr": "auto", "batch": 2, "seed": 1000}),
        ("train: {checkpointing: yes, max_steps: ~}", "train", {"checkpointing": True, "max_steps": None}),
        ("train: {report_to: wandb}", "train", {"report_to": ("wandb",)}),
        ("train: {report_to: [wandb, tensorboard]}", "train", {"report_to": ("wandb", "tensorboard")}),
        ("train:", "train", {}),
        ("method: auto", "method", {}),
        ("method: adam-mini", "method", {"policy": "adam_mini"}),
        ("method: {policy: adamw, lora: true}", "method", {"policy": "adamw", "lora": LoraSettings()}),
        ("method: {policy: adamw, lora: 8}", "method", {"policy": "adamw", "lora": LoraSettings(8)}),
        ("method: {policy: adamw, lora: false}", "method", {"policy": "adamw"}),
        ("method: {policy: adamw, lora: {alpha: 4, targets: q_proj}}", "method",
         {"policy": "adamw", "lora": LoraSettings(alpha=4.0, targets="q_proj")}),
        ("method: {policy: adamw, lora: {targets: [q_proj, v_proj]}}", "method",
         {"policy": "adamw", "lora": LoraSettings(targets=("q_proj", "v_proj"))}),
        ("method: {quantization: int8_trainable}", "method", {"quantization": "int8-trainable"}),
        ("method: {policy: frugal, options: {density: 5e-2, split: rows, reset: off}}", "method",
         {"policy": "frugal", "options": {"density": 0.05, "split": "rows", "reset": False}}),
        ("output: there", "output", {"folder": "there"}),
        ("output: {push: org/name, merge: false}", "output", {"push": "org/name"}),
    ],
)  # fmt: skip
def test_values_are_what_their_keys_take(text, section, expected):
    run = read_run(BASE + text)
    found = run if section is None else getattr(run, section)
    kind = type(found)
    base = {"model": READ.model, "data": READ.data} if kind is Run else {}
    assert found == kind(**base, **expected)
    assert all(type(vars(found)[name]) is type(value) for name, value in expected.items())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("data: [a.jsonl, b.jsonl]", {"train": ("a.jsonl", "b.jsonl")}),
        ("data: {train: org/name:train, eval: 0.05}", {"train": ("org/name:train",), "eval": 0.05}),
        ("data: {train: 2024-01-01, eval: 1:30}", {"train": ("2024-01-01",), "eval": "1:30"}),
        ("data: {train: no, columns: {prompt: on, completion: yes}}",
         {"train": ("no",), "columns": {"prompt": "on", "completion": "yes"}}),
        ("data: {train: x, packing: 'off', }", None),
        ("data: {train: x, packing: off, max_length: 512}", {"train": ("x",), "packing": False, "max_length": 512}),
    ],
)  # fmt: skip
def test_texts_stay_texts_whatever_yaml_takes_them_for(text, expected):
    if expected is None:
        with pytest.raises(HybridOptError, match="packing='off' is not allowed; give true or false, without quotes"):
            read_run(f"model: m\n{text}")
    else:
        assert read_run(f"model: m\n{text}").data == Data(**expected)


def test_a_file_is_read_with_its_name_and_lines(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("\ufeff" + BASE + "train:\n  batch: two\n", encoding="utf-8")
    with pytest.raises(HybridOptError, match=r"run\.yaml:4: train\.batch='two' is not allowed; give a whole number"):
        read_run(file)
    file.write_text(BASE)
    assert read_run(file) == read_run(str(file)) == READ


def test_the_command_line_says_the_same_as_a_file():
    assert run_of("org/name", ["rows.jsonl"]) == READ
    assert run_of("yes", ["1: #2"], ["train.lr=1e-3"]) == Run("yes", data=Data(("1: #2",)), train=Train(lr=1e-3))
    assert run_of("m", ["d"], [OptionValue("output.folder", "a: [b] #c", "--out")]).output == Output("a: [b] #c")
    with pytest.raises(HybridOptError, match="data.train is missing"):
        run_of("m", [])


# ---- --set


def test_what_is_set_replaces_what_the_file_says_and_later_wins():
    text = BASE + "train: {lr: 1e-3, batch: 2}\nmethod: {policy: frugal, options: {density: 0.5}, lora: 8}\n"
    sets = ["train.lr=3", "train.lr=2e-4", "method.options.update_gap=7", "method.lora.dropout=0.1", "data.eval=0.1"]
    run = read_run(text, sets)
    assert (run.train.lr, run.train.batch) == (2e-4, 2)
    assert run.method == Method("frugal", {"density": 0.5, "update_gap": 7}, LoraSettings(8, dropout=0.1))
    assert run.data == Data(("rows.jsonl",), 0.1)
    assert read_run(text, ["method=adamw"]).method == Method("adamw")
    assert read_run(text, ["data=[a, b]"]).data == Data(("a", "b"))
    assert read_run(text, ["data.columns.prompt=q"]).data.columns == {"prompt": "q"}
    assert read_run(text, ["method.lora=null", "train.clip=null"]).method.lora is None


@pytest.mark.parametrize(
    ("given", "say"),
    [
        ("train.lr=abc", r"--set train\.lr=abc: train\.lr='abc' is not allowed; give a number above 0; or auto"),
        ("train.lr", r"--set train\.lr is not allowed; write key=value"),
        ("=3", "write key=value"),
        ("train..lr=3", "write key=value"),
        ("train.lerning_rate=3", r"--set train\.lerning_rate=3: .* did you mean train\.lr\?"),
        ("lr=3", r"did you mean train\.lr\?"),
        ("train.lr.x=3", r"train\.lr=\{'x': 3\} is not allowed"),
        ("train=3", "train=3 is not allowed; give a mapping of keys: epochs, max_steps"),
        ("train.lr=[", "--set train.lr=.*: this is no YAML"),
        ("train.lr=&x 3", "anchors and aliases"),
        ("method.options.densty=3", "--set method.options.densty=3: .*did you mean 'density'"),
    ],
)
def test_what_is_set_wrongly_is_named(given, say):
    with pytest.raises(HybridOptError, match=say):
        read_run(BASE + "method: frugal", [given])


def test_reading_imports_no_torch():
    code = "import sys\nfrom hybridopt.training.config.reading import read_run\n"
    code += f"read_run({(BASE + 'method: frugal')!r})\nprint('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
