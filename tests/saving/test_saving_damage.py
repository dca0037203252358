"""Whatever is wrong with a saved folder or its base model is one clear error, and the model is as it was."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import hybridopt
from hybridopt import HybridOptError
from hybridopt.saving import manifest
from support.models import tiny_llama
from support.saved import ALL_LINEAR, SCENES, refused, train

CONFIG, MANIFEST = "hybridopt_config.json", "hybridopt_manifest.json"
DELTA, ADAPTER, LORA = "hybridopt_delta.safetensors", "adapter_model.safetensors", "adapter_config.json"
FILES = (CONFIG, MANIFEST, DELTA, ADAPTER, LORA)
NORM = "base_model.model.model.norm.weight"
Q_PROJ = "model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Adapters, changed norms and a quantized base, saved."""
    model = SCENES["nf4-norms"].wrapped()
    train(model)
    folder = tmp_path_factory.mktemp("original")
    model.hybrid.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(original, tmp_path):
    return Path(shutil.copytree(original, tmp_path / "copy"))


def reseal(folder):
    """A manifest that fits the files, as one who means harm would write it."""
    (folder / MANIFEST).unlink(missing_ok=True)
    manifest.seal(folder)


def edit(folder, name=CONFIG, **changes):
    data = json.loads((folder / name).read_text()) | changes
    (folder / name).write_text(json.dumps({k: v for k, v in data.items() if v is not ...}))
    reseal(folder)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-3]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n}"),
    "flipped": flip,
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_damaged_files(folder, name, how):
    DAMAGE[how](folder / name)
    refused(tiny_llama(), folder, name if how != "flipped" else "manifest")


def test_foreign_files_of_our_names(folder):
    (folder / "hybridopt_replay.safetensors").write_bytes(b"")
    refused(tiny_llama(), folder, "hybridopt_replay.safetensors belongs to no version saved here")


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda path: None, "not a saved folder"),
        (lambda path: path.mkdir(), "hybridopt_manifest.json.*nothing"),
        (lambda path: path.write_text("x"), "not a saved folder"),
        (lambda path: tiny_llama().save_pretrained(path), "plain transformers model.*AutoModel"),
        (
            lambda path: get_peft_model(tiny_llama(), LoraConfig(**ALL_LINEAR)).save_pretrained(path),
            "plain PEFT adapter",
        ),
    ],
)
def test_what_is_no_saved_folder(tmp_path, make, text):
    make(tmp_path / "thing")
    refused(tiny_llama(), tmp_path / "thing", text)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"format": 2}, "format=2.*reads format 1"),
        ({"format": True}, "format"),
        ({"format": ...}, "format"),
        ({"seed": "7"}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": float("nan")}, "nan"),
        ({"seed": 10**30}, "64 bits"),
        ({"surprise": 1}, "surprise"),
        ({"base": ...}, "base"),
        ({"base": {}}, "not the base model"),
        ({"base": "0123456789abcdef"}, "base.*must be an object"),
        ({"base": {"x": [1, "float32"]}}, "must be .elements, dtype, checksum."),
        ({"dtype": 5}, "dtype"),
        ({"dtype": "bfloat16"}, "float32.*bfloat16"),
        ({"policy": []}, "policy"),
        ({"policy": {}}, "part=None"),
        ({"policy": {"part": "policies.os"}}, "'os' is not known"),
        ({"policy": {"part": "os.system"}}, "part='os.system'"),
        ({"policy": {"part": "rules.adamw"}}, "is no policies"),
        ({"policy": {"part": "policies.frugal", "density": 2}}, "density=2"),
        ({"policy": {"part": "policies.frugal", "desnity": 0.5}}, "no option 'desnity'"),
        ({"policy": {"part": "policies.frugal", "full": {"part": "rules.adamw", "eps": "x"}}}, "eps='x'"),
        ({"policy": {"part": "policies.frugal", "full": ["a"]}}, "rule"),
        ({"policy": {"part": "policies.frugal", "split": {"part": "splits._lines"}}}, "_lines"),
        ({"policy": {"routes": []}}, "at least one Route"),
        ({"policy": {"routes": [5]}}, "route 5"),
        ({"policy": {"custom": "function f"}}, r"function f.*policy=\.\.\."),
        ({"quantization": "nf5"}, "nf5"),
        ({"quantization": 4}, "quantization"),
        ({"quantization": None}, "quantiz"),
        ({"quantized": "all"}, "quantized"),
        ({"quantized": [1]}, "quantized"),
        ({"quantized": ["lm_head.nowhere"]}, "lm_head.nowhere"),
        ({"quantized": ["model.norm"]}, "model.norm"),
        ({"quantized": [Q_PROJ, "../../etc"]}, "etc"),
        ({"adapters": ["default", "../../etc"]}, "etc"),
        ({"adapters": ["/etc"]}, "etc"),
        ({"adapters": ["nobody"]}, "nobody"),
        ({"adapters": ["default", "default"]}, "default"),
        ({"adapters": [["default"]]}, "adapters"),
        ({"adapters": [], "active": []}, "adapter"),
        ({"active": ["nobody"]}, "nobody"),
        ({"unfrozen": ["model.nowhere"]}, "model.nowhere"),
        ({"unfrozen": {}}, "unfrozen"),
    ],
)
def test_configurations(folder, changes, text):
    edit(folder, **changes)
    refused(tiny_llama(), folder, text)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('{"format": 1, "format": 1}', "twice|double|format"),
        ("", CONFIG),
        ("[]", "object"),
        ("{", CONFIG),
        ("\xff\xfe", CONFIG),
        ("[" * 10_000, "levels"),
    ],
)
def test_configurations_that_are_no_json(folder, text, error):
    (folder / CONFIG).write_bytes(text.encode("latin1"))
    reseal(folder)
    assert CONFIG in refused(tiny_llama(), folder, error)


@pytest.mark.parametrize("name", ["../outside.json", "/etc/passwd", "a/../../b", "c:\\x", "", "a\0b"])
def test_paths_in_the_manifest(folder, name):
    data = json.loads((folder / MANIFEST).read_text())
    data["files"][name] = {"size": 0, "sha256": ""}
    (folder / MANIFEST).write_text(json.dumps(data))
    refused(tiny_llama(), folder, "plain path inside the folder")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"nowhere.weight": torch.ones(3)}, "'nowhere.weight'.*base model has not"),
        ({"../../x": torch.ones(3)}, "base model has not"),
        ({"base_model.model.model.layers.0.mlp.up_proj.lora_A.default.weight": torch.ones(3)}, "base model has not"),
        ({NORM: torch.ones(3)}, "shape .3,.*the base model has .64,"),
        ({NORM: torch.ones(64, dtype=torch.bfloat16)}, "bfloat16.*float32"),
        ({f"base_model.model.{Q_PROJ}.base_layer.weight": torch.ones(64, 64)}, "quantized"),
    ],
)
def test_deltas(folder, changes, text):
    save_file(load_file(folder / DELTA) | changes, folder / DELTA)
    reseal(folder)
    refused(tiny_llama(), folder, text)


def test_a_manifest_made_anew_over_less_than_was_saved(folder):
    """The configuration knows what had new values: these must lie in some file."""
    (folder / DELTA).unlink()
    reseal(folder)
    refused(tiny_llama(), folder, "'model.layers.0.input_layernorm.weight'.*had new values.*no file there holds them")


def test_a_delta_with_less_than_was_saved(folder):
    save_file({n: x for n, x in load_file(folder / DELTA).items() if n != NORM}, folder / DELTA)
    reseal(folder)
    refused(tiny_llama(), folder, "'model.norm.weight' .1 tensors. had new values")


def without_first(state):
    return dict(list(state.items())[1:])


def with_another(state):
    return state | {"base_model.model.model.layers.9.mlp.up_proj.lora_A.weight": torch.ones(4, 64)}


def of_other_rank(state):
    return {k: torch.ones(5, v.shape[1]) if "lora_A" in k else v for k, v in state.items()}


@pytest.mark.parametrize("change", [without_first, with_another, of_other_rank])
def test_adapters_that_do_not_fit(folder, change):
    save_file(change(load_file(folder / ADAPTER)), folder / ADAPTER)
    reseal(folder)
    refused(tiny_llama(), folder, "adapter 'default'")


@pytest.mark.parametrize("name", [ADAPTER, DELTA])
def test_damaged_tensors_under_a_fitting_manifest(folder, name):
    whole = (folder / name).read_bytes()
    for data in (whole[: len(whole) // 2], b"\xff" * 64, b"", whole[8:]):
        (folder / name).write_bytes(data)
        reseal(folder)
        refused(tiny_llama(), folder, name)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"peft_type": "NOTHING"}, "adapter_config|default"),
        ({"peft_type": "PREFIX_TUNING"}, "adapter|prompt"),
        ({"peft_type": ...}, "adapter"),
        ({"target_modules": ["nowhere"]}, "nowhere"),
        ({"target_modules": 5}, "adapter|target_modules"),
        ({"r": "many"}, "r='many' is not allowed"),
        ({"r": -1}, "adapter|r"),
    ],
)
def test_adapter_configurations(folder, changes, text):
    edit(folder, LORA, **changes)
    refused(tiny_llama(), folder, text)


def test_an_adapter_configuration_that_is_no_json(folder):
    (folder / LORA).write_text("{")
    reseal(folder)
    refused(tiny_llama(), folder, LORA)


def test_a_base_that_is_no_model(folder):
    with pytest.raises(HybridOptError, match="nn.Module"):
        hybridopt.from_pretrained("tiny-llama", folder)


@pytest.mark.parametrize("options", [{"density": 0.5}, {"policy": "frugal", "desnity": 1}, {"policy": "nothing"}])
def test_policies_given_wrongly(folder, options):
    refused(tiny_llama(), folder, "policy|desnity", **options)
