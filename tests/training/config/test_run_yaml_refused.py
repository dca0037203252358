"""What run.yaml must not say is refused, with its line and what was meant."""

import pytest

from hybridopt import HybridOptError
from hybridopt.training.config.nodes import LARGEST
from hybridopt.training.config.reading import read_run

BASE = "model: org/name\ndata: rows.jsonl\n"


@pytest.mark.parametrize(
    ("line", "say"),
    [
        # keys
        ("train: {lerning_rate: 1}", r"train\.lerning_rate is not known; did you mean train\.lr\? Known: train\.epo"),
        ("train: {batchs: 1}", r"did you mean train\.batch\?"),
        ("train: {per_device_train_batch_size: 1}", r"did you mean train\.batch\?"),
        ("learning_rate: 1", r"did you mean train\.lr\?"),
        ("lora: 16", r"did you mean method\.lora\?"),
        ("train: {max_length: 1}", r"did you mean data\.max_length\?"),
        ("method: {lora: {rank: 1}}", r"method\.lora\.rank is not known; did you mean method\.lora\.r\?"),
        ("trust_remote_code: true", "code that comes with a model or with data is never run"),
        ("train: {xyzzy: 1}", r"train\.xyzzy is not known; Known: train\.epochs"),
        ("<<: 3", "<< is not known"),
        ("4: 3", "4 is not known"),
        ("? [a]\n: 3", "a key that is a list"),
        ("train: {lr: 1, lr: 2}", "'lr' is given twice, first at line 3"),
        ("model: other", "'model' is given twice, first at line 1"),
        # types
        ("train: {batch: two}", r"train\.batch='two' is not allowed; give a whole number from 1 to 1048576"),
        ("train: {batch: '2'}", "give a whole number .*, without quotes"),
        ("train: {batch: 1.5}", r"train\.batch=1\.5 is not allowed"),
        ("train: {batch: yes}", r"train\.batch=True is not allowed"),
        ("train: {batch: null}", r"train\.batch=None is not allowed"),
        ("train: {batch: [1]}", r"train\.batch=\[1\] is not allowed"),
        ("train: {batch: auto}", r"train\.batch='auto' is not allowed"),
        ("train: {checkpointing: 1}", r"checkpointing=1 is not allowed; give true or false; or auto"),
        ("train: {report_to: {a: b}}", "report_to={'a': 'b'} is not allowed; give a list of: azure_ml"),
        ("train: {report_to: [tensorbord]}", r"report_to\[0\]='tensorbord' is not known; did you mean 'tensorboard'"),
        ("train: 3", "train=3 is not allowed; give a mapping of keys: epochs"),
        ("train: [1]", r"train=\[1\] is not allowed; give a mapping of keys"),
        ("train: null", "train=None is not allowed; give a mapping of keys"),
        ("task_options: auto", "task_options='auto' is not allowed; give a mapping of options"),
        ("output: {push: auto/x/y}", "push='auto/x/y' is not allowed"),
        ("task_options: [1]", "task_options=.* give a mapping of options"),
        ("method: {lora: x}", r"method\.lora\.r='x' is not allowed"),
        ("method: {lora: 0}", r"method\.lora\.r=0 is not allowed; give a whole number from 1 to 65536; or null"),
        ("method: {lora: 0.0}", r"method\.lora\.r=0.0 is not allowed"),
        ("method: {lora: -4}", r"method\.lora\.r=-4 is not allowed; .*; or null"),
        ("method: {lora: {r: 0}}", r"method\.lora\.r=0 is not allowed; give a whole number from 1 to 65536$"),
        ("method: {placement: 0}", r"method\.placement\.base='0' is not known; .*; or null"),
        ("method: {lora: {targets: []}}", "targets=.* give at least one"),
        ("output: {folder: ''}", "output.folder='' is not allowed; give a text"),
        # ranges
        ("train: {batch: 0}", "batch=0 is not allowed"),
        ("train: {seed: -1}", "seed=-1 is not allowed"),
        ("train: {epochs: 0}", "epochs=0 is not allowed; give a number above 0"),
        ("train: {lr: 0}", r"train\.lr=0 is not allowed; give a number above 0; or auto"),
        ("train: {lr: -1e-4}", "lr=-0.0001 is not allowed"),
        ("train: {lr: .nan}", "lr=nan is not allowed"),
        ("train: {lr: .inf}", "lr=inf is not allowed"),
        ("train: {lr: 1e999}", "lr=inf is not allowed"),
        ("train: {warmup: 1}", "warmup=1 is not allowed; give a number from 0 and below 1"),
        ("train: {warmup: 3}", r"warmup=3 .*did you mean 0\.03\?"),
        ("margin: -0.1", "margin=-0.1 is not allowed"),
        ("margin: 4", r"margin=4 .*did you mean 0\.04\?"),
        ("train: {seed: 99999999999999999999}", "seed=99999999999999999999 is not allowed"),
        (f"train: {{seed: {'9' * 5000}}}", "seed='999.* is not allowed"),
        ("train: {eval_every: 1.5}", "eval_every=1.5 is not allowed; give a share of all steps above 0 and below 1"),
        ("train: {eval_every: 0}", "eval_every=0 is not allowed"),
        ("output: {push: a/b/c}", "push='a/b/c' is not allowed; give the id of a hub repository"),
        # words
        ("task: sfft", "task='sfft' is not known; did you mean 'sft'"),
        ("gpu: rtx4091", "'rtx4091' is no known GPU; did you mean RTX 4090"),
        ("gpu: 12", "gpu='12' has no unit"),
        ("method: frugle", r"method\.policy='frugle' is not known; did you mean 'frugal'"),
        ("method: {quantization: nf5}", "quantization='nf5' is not known; did you mean 'nf4'"),
        ("method: {release: fusd}", "release='fusd' is not known; did you mean 'fused'"),
        ("train: {schedule: cosin}", "schedule='cosin' is not known; did you mean 'cosine'"),
        ("train: {dtype: bf15}", "dtype='bf15' is not known; did you mean 'bf16'"),
        # what keys say together
        ("method: {policy: frugal, options: {densty: 1}}", "no option 'densty' .*did you mean 'density'"),
        ("method: {policy: frugal, options: {density: 7}}", "density=7"),
        ("method: {policy: none.json}", "none.json is missing"),
        ("method: {options: {density: 0.5}}", "method.options belong to a policy"),
        ("method: {activations: wta-crs}", "method.activations goes with a policy"),
        ("method: {policy: frugal, activations: wta}", "activations='wta' is not known; did you mean 'wta-crs'"),
        (
            "method: {policy: frugal, activations: wta-crs}\ntrain: {checkpointing: true}",
            "method.activations=wta-crs is not allowed with train.checkpointing=true",
        ),
        ("method: {lora: null}", "method.lora=null beside method.policy=auto .*leave it out"),
        ("method: {release: accumulate}", "method.release=accumulate beside method.policy=auto"),
        ("train: {dtype: fp16}", "train.dtype=fp16: .* write train.dtype: bf16, or fp32"),
        ("train: {early_stopping: 3}", "early_stopping needs evaluations on the way; give data.eval"),
        ("method: adamw\noutput: {merge: true}", "output.merge=true needs adapters"),
        # YAML
        ("\ttrain: 3", "a tab, and YAML is indented by spaces only"),
        ("train: {lr: 3", "this is no YAML"),
        ("gpu: a: b", "put texts that have ': ' in them in quotes"),
        ("a: &x 3", "anchors and aliases"),
        ("a: *x", "anchors and aliases"),
        ("a: !!python/object/apply:os.system [ls]", "the tag .* names no types and no code"),
        ("a: !!str x", "the tag"),
        ("a: \x07", r"the character '\\x07' is not allowed"),
        ("a: " + "[" * 100, "more than 32 levels"),
        ("---\na: 3", "expected a single document"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_line(line, say):
    with pytest.raises(HybridOptError, match=say) as raised:
        read_run(BASE + line)
    assert str(raised.value).startswith(("line 3: ", "line 4: "))


@pytest.mark.parametrize(
    ("text", "say"),
    [
        ("", "line 1: model is missing: a folder, or an id on the hub"),
        ("# nothing\n", "model is missing"),
        ("- a\n", r"line 1: \['a'\] alone is not allowed; give a mapping of keys: model, task"),
        ("word\n", "'word' alone is not allowed"),
        ("data: x\n", "model is missing"),
        ("model: m\n", "data.train is missing; give files"),
        ("model: m\ndata: {eval: 0.1}\n", "line 2: data.train is missing"),
        ("model: m\ndata: []\n", "data.train=.* give at least one"),
        ("model:\ndata: x\n", "line 1: model=None is not allowed; give a text"),
        ("model: m\ndata: {train: x, eval: 5}\n", r"line 2: data.eval=5 .*did you mean 0\.05\?"),
        ("model: m\ndata: {train: x, eval: 1}\n", "data.eval=1 is not allowed"),
        ("model: m\ndata: {train: x, loss_on: answer}\n", "loss_on='answer' is not known"),
        ("model: m\ndata: {train: x, format: chat}\n", "format='chat' is not known"),
        ("model: m\ndata: {train: x, columns: {a: [b]}}\n", r"data.columns.a=\['b'\] is not allowed"),
        ("a" * (LARGEST + 1), "more than .* characters"),
        (
            "model: m\ndata: {train: x, columns: {prompt:ask}}\n",
            "line 2: 'prompt:ask' has no value.*write prompt: ask",
        ),
        ("model: m\ntrain:\n  lr:1e-4\n  batch: 2\n", "line 4: this is no YAML.*a space behind the colon"),
    ],
)
def test_files_that_are_no_run_are_refused(text, say):
    with pytest.raises(HybridOptError, match=say):
        read_run(text)


def test_places_that_are_no_file_are_refused(tmp_path):
    (tmp_path / "bytes.yaml").write_bytes(b"model: \xff\xfe")
    (tmp_path / "large.yaml").write_bytes(b"#" * (4 * LARGEST + 2))
    for name, say in {
        "none.yaml": "is not there; .*hybridopt init MODEL DATA > none.yaml",
        "": "is a folder; give the run.yaml in it",
        "bytes.yaml": "no text in UTF-8",
        "large.yaml": "more than",
    }.items():
        with pytest.raises(HybridOptError, match=say):
            read_run(tmp_path / name)
    with pytest.raises(HybridOptError, match="is not there"):
        read_run("nowhere.yml")


def test_the_line_is_that_of_the_key_and_not_of_what_lies_beneath_it():
    with pytest.raises(HybridOptError, match=r"^line 3: trian is not known; did you mean train\?"):
        read_run(BASE + "trian:\n\n\n  batch: 1\n")


@pytest.mark.parametrize(
    ("given", "cure"),
    [
        ("method.options={density:0.5}", "density: 0.5"),
        ("method.lora={r:8, alpha: 16}", "r: 8"),
        ("task_options={beta:0.1}", "beta: 0.1"),
    ],
)
def test_a_key_without_a_space_behind_its_colon_is_named_with_the_cure(given, cure):
    with pytest.raises(HybridOptError, match=f"^--set .*: '{cure.replace(' ', '')}' has no value.*write {cure}$"):
        read_run(BASE, [given])


def test_a_colon_within_a_key_that_has_a_value_is_left_alone():
    assert dict(read_run(BASE, ["data.columns={prompt: 'a:b', completion: a:c}"]).data.columns) == {
        "prompt": "a:b",
        "completion": "a:c",
    }
