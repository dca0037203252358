"""`hybridopt inspect` says what a folder holds, or what is wrong with it."""

import json

import pytest
from peft import LoraConfig
from typer.testing import CliRunner

import hybridopt
from hybridopt import HybridOptError
from hybridopt.cli.main import app
from support.models import batch, tiny_llama
from support.saved import train


def run(*arguments):
    result = CliRunner().invoke(app, ["inspect", *map(str, arguments)])
    if isinstance(result.exception, HybridOptError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def inspected(*arguments):
    return json.loads(run(*arguments, "--json"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inspected")
    base = tiny_llama()
    base.save_pretrained(folder / "base")
    base = type(base).from_pretrained(folder / "base")
    config = LoraConfig(r=4, target_modules=["q_proj"])
    model = hybridopt.wrap(base, policy="galore", density=0.5, peft_config=config, quantization="nf4", seed=3)
    model.model.model.norm.weight.requires_grad_(True)
    train(model, 1)
    model.hybrid.save_pretrained(folder / "out")
    return folder, model


def test_a_saved_folder(saved):
    folder, model = saved
    found = inspected(folder / "out")
    assert found["policy"]["part"] == "policies.galore" and found["policy"]["density"] == 0.5 and found["seed"] == 3
    [adapter] = found["adapters"]
    size = sum(p.numel() for n, p in model.named_parameters() if "lora" in n)
    assert (adapter["name"], adapter["peft_type"], adapter["r"], adapter["active"]) == ("default", "LORA", 4, True)
    assert adapter["parameters"] == size and adapter["bytes"] == 4 * size
    assert found["delta"] == {"tensors": 1, "parameters": 64, "bytes": 256} and found["replay"] is None
    base = found["base"]
    assert base["name"] == str(folder / "base") and base["quantization"] == "nf4" and base["quantized"] == 14
    assert (base["tensors"], base["checksums"], base["trained"]) == (21, 20, 1)
    assert base["compared"].startswith("20 of 21 tensors")
    assert all(
        said in run(folder / "out")
        for said in ("known by checksum: 20", "trained beside adapters: 1", "│ checksums: 2")
    )
    assert found["files"]["adapter_model.safetensors"] > adapter["bytes"]
    assert found["formats"] == {"configuration": 1, "checksums": 2, "manifest": 1}


@pytest.mark.parametrize("scheme", ["nf4", "int8", "int8-trainable"])
def test_layers_that_were_quantized_before_are_counted(scheme, saved, tmp_path):
    folder, _ = saved
    adapters = {"peft_config": LoraConfig(r=4, target_modules=["q_proj"])} if scheme != "int8-trainable" else {}
    model = hybridopt.wrap(hybridopt.load(folder / "base", quantization=scheme), policy="frugal", **adapters)
    model.hybrid.save_pretrained(tmp_path)
    base = inspected(tmp_path)["base"]
    assert (base["quantization"], base["quantized"]) == (scheme, 14)


def test_a_whole_model_that_was_trained(saved, tmp_path):
    folder, model = saved
    assert inspected(folder / "out")["holds"] == "1 adapter and 1 changed tensor, for its base"
    whole = hybridopt.wrap(type(tiny_llama()).from_pretrained(folder / "base"), policy="galore", quantization=None)
    whole.hybrid.save_pretrained(tmp_path, full=True)
    found = inspected(tmp_path)
    assert found["holds"].startswith("a whole model") and found["base"]["name"] == str(folder / "base")
    assert found["base"]["checksums"] is None and found["base"]["trained"] is None
    assert found["base"]["compared"].startswith("none: the folder holds every weight")
    size = sum(p.numel() for p in whole.parameters())
    model = {"architecture": "LlamaForCausalLM", "dtype": "float32", "tensors": 21}
    assert found["model"] == model | {"parameters": size, "bytes": 4 * size}
    assert {(row["tag"], row["role"]) for row in found["roles"]} >= {("split", "linear"), ("state-full", "norm")}
    assert (
        sum(row["bytes"] for row in found["roles"]) == found["model"]["bytes"] == inspected(folder / "base")["bytes"]
    )
    assert all(text in run(tmp_path) for text in ("a whole model", "split", "LlamaForCausalLM"))


def test_changed_tensors_without_adapters(tmp_path):
    model = hybridopt.wrap(tiny_llama(), policy="adamw")
    train(model, 1)
    model.hybrid.save_pretrained(tmp_path)
    base = inspected(tmp_path)["base"]
    assert base["checksums"] == 0 and base["compared"].startswith("none: the folder holds every value that counts")
    assert base["trained"] is None and "trained beside adapters: -" in run(tmp_path)


def test_a_run_that_is_kept_as_scalars(tmp_path):
    model = hybridopt.wrap(tiny_llama(), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=1e-3)
    for _ in range(3):
        optimizer.step(lambda: model(**batch(model)).loss)
    model.hybrid.save_pretrained(tmp_path)
    base = inspected(tmp_path)["base"]
    assert base["trained"] is None and base["checksums"] == 21 and base["compared"].startswith("21 of 21")
    replay = inspected(tmp_path)["replay"]
    assert (replay["steps"], replay["directions"], replay["tensors"]) == (3, 1, 21)
    assert replay["parameters"] == sum(p.numel() for p in model.parameters()) and replay["bytes"] < 100


def test_a_model_folder_by_role(saved):
    folder, _ = saved
    found = inspected(folder / "base")
    roles = {row["role"]: row for row in found["roles"]}
    model = tiny_llama()
    assert found["architecture"] == "LlamaForCausalLM" and found["dtype"] == "float32"
    assert found["parameters"] == sum(row["parameters"] for row in roles.values()) == model.num_parameters()
    assert roles["norm"]["bytes"] == 5 * 64 * 4 and roles["linear"]["tensors"] == 14


def test_a_model_folder_by_tag(saved):
    folder, _ = saved
    rows = inspected(folder / "base", "--policy", "frugal")["roles"]
    assert {(row["tag"], row["role"]) for row in rows} >= {("split", "linear"), ("state-full", "norm")}
    report = hybridopt.wrap(tiny_llama(), policy="frugal").hybrid.report()
    assert sum(row["state bytes"] for row in rows) == sum(row.state_bytes for row in report.rows)


def test_tables_for_people(saved):
    folder, _ = saved
    assert all(text in run(folder / "out") for text in ("galore", "nf4", "default", "LORA"))
    assert all(text in run(folder / "base") for text in ("LlamaForCausalLM", "embedding", "linear"))


def test_what_is_wrong_is_said(saved, tmp_path):
    folder, _ = saved
    with pytest.raises(HybridOptError, match="is for model folders"):
        run(folder / "out", "--policy", "frugal")
    with pytest.raises(HybridOptError, match="no such folder"):
        run(tmp_path / "nowhere")
    with pytest.raises(HybridOptError, match=r"has no config\.json"):
        run(tmp_path)
    with pytest.raises(HybridOptError, match="frugall.*frugal"):
        run(folder / "base", "--policy", "frugall")
    for path in (folder / "out").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    data = (tmp_path / "hybridopt_delta.safetensors").read_bytes()
    (tmp_path / "hybridopt_delta.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(HybridOptError, match=r"hybridopt_delta\.safetensors is damaged"):
        run(tmp_path)
