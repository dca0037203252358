"""`hybridopt replay` rebuilds the files of trained weights from a base and scalars, or says why it cannot."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import hybridopt
from hybridopt import HybridOptError, Policy
from hybridopt.cli.main import app
from hybridopt.saving.rebuilding.replay import Replay
from support.models import tiny_llama
from support.probing import loss_of, net
from support.replays import MIXED, deep, height, metadata

LR = 1e-2
FILE = "model.safetensors"


def write_base(model, folder, name=FILE):
    folder.mkdir(exist_ok=True)
    save_file({n: x.detach().clone() for n, x in model.state_dict().items()}, folder / name, {"format": "pt"})
    (folder / "config.json").write_text("{}")
    return folder


def train(base, steps=4, policy="mezo", weight_decay=0.0, **options):
    model = hybridopt.wrap(base, policy=policy, **options)
    optimizer = model.hybrid.optimizer(lr=LR, weight_decay=weight_decay)
    for _ in range(steps):
        optimizer.step(lambda: loss_of(model))
    model.kept = [optimizer]
    return model


def saved(base, folder, **options):
    model = train(base, **options)
    model.hybrid.save_pretrained(folder)
    return model


def state(model):
    return {n: x.clone() for n, x in model.state_dict().items()}


def same(file, model):
    found, expected = load_file(file), state(model)
    return found.keys() == expected.keys() and all(torch.equal(found[n], x) for n, x in expected.items())


def run(*arguments):
    result = CliRunner().invoke(app, ["replay", *map(str, arguments)])
    if isinstance(result.exception, HybridOptError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def refused(text, base, *arguments, out=None):
    """Nothing appears, nothing is left behind, and the base is as it was."""
    out = out or base.parent / "out"
    before = {p: p.read_bytes() for p in base.parent.rglob("*") if p.is_file()}
    with pytest.raises(HybridOptError, match=text) as caught:
        run(base, *arguments, "-o", out)
    assert {p: p.read_bytes() for p in base.parent.rglob("*") if p.is_file()} == before
    return str(caught.value)


@pytest.fixture
def base(tmp_path):
    return write_base(net(), tmp_path / "base")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_folder_becomes_another(dtype, tmp_path):
    base = write_base(net(dtype), tmp_path / "base")
    (base / "tokenizer").mkdir()
    (base / "tokenizer" / "vocab.json").write_text("[]")
    (base / "pytorch_model.bin").write_bytes(b"old")
    model = saved(net(dtype), tmp_path / "adapter", weight_decay=0.1)
    output = run(base, tmp_path / "adapter", "-o", tmp_path / "out")
    assert same(tmp_path / "out" / FILE, model) and "to the bit" in output
    files = {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert files == {FILE, "config.json", "tokenizer/vocab.json"}
    with safe_open(tmp_path / "out" / FILE, framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
    row = next(line for line in output.splitlines() if "│" in line and any(c.isdigit() for c in line))
    assert [cell.strip() for cell in row.strip("│").split("│")][:3] == ["4", "4", f"{6 * 10 + 10 + 20 + 40}"]


def test_a_file_becomes_another(base, tmp_path):
    model = saved(net(), tmp_path / "adapter")
    run(base / FILE, tmp_path / "adapter", "-o", tmp_path / "out.safetensors")
    assert same(tmp_path / "out.safetensors", model)
    refused("end in .safetensors", base / FILE, tmp_path / "adapter", out=tmp_path / "out.bin")


def test_shards_named_in_an_index_are_replayed_one_by_one(tmp_path):
    tensors, base = state(net()), tmp_path / "base"
    base.mkdir()
    halves = (list(tensors)[:2], list(tensors)[2:])
    places = {}
    for i, names in enumerate(halves):
        save_file({n: tensors[n] for n in names}, base / f"model-{i}.safetensors")
        places |= dict.fromkeys(names, f"model-{i}.safetensors")
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    save_file(tensors, base / "consolidated.safetensors")
    model = saved(net(), tmp_path / "adapter")
    run(base, tmp_path / "adapter", "-o", tmp_path / "out")
    found = load_file(tmp_path / "out" / "model-0.safetensors") | load_file(tmp_path / "out" / "model-1.safetensors")
    assert all(torch.equal(found[n], x) for n, x in state(model).items())
    assert not (tmp_path / "out" / "consolidated.safetensors").exists()
    (base / "model.safetensors.index.json").unlink()
    refused("in several files", base, tmp_path / "adapter", out=tmp_path / "other")


@pytest.mark.parametrize("upto", [0, 1, 3, 4])
def test_up_to_any_step(upto, base, tmp_path):
    saved(net(), tmp_path / "adapter", weight_decay=0.1)
    output = run(base, tmp_path / "adapter", "-o", tmp_path / "out", "--upto", upto)
    assert same(tmp_path / "out" / FILE, train(net(), upto, weight_decay=0.1))
    assert ("not verified" in " ".join(output.split())) == (upto < 4)


@pytest.mark.parametrize("upto", [-1, 5])
def test_steps_that_there_are_not(upto, base, tmp_path):
    saved(net(), tmp_path / "adapter")
    refused(f"upto={upto}.*from 0 to 4", base, tmp_path / "adapter", "--upto", upto)


@pytest.mark.parametrize(("policy", "options"), [("mezo", {"pool": 3}), ("zo_signsgd", {}), ("fzoo", {"samples": 2})])
def test_pooled_directions_cost_a_pass_each_and_equal_the_run_up_to_rounding(policy, options, base, tmp_path):
    model = saved(net(), tmp_path / "adapter", steps=30, policy=policy, **options)
    output = run(base, tmp_path / "adapter", "-o", tmp_path / "out", "--pooled")
    found = load_file(tmp_path / "out" / FILE)
    assert "not verified" in " ".join(output.split())
    work = Replay(base, [tmp_path / "adapter"], pooled=True)
    assert work.passes == [3 if "pool" in options else 30 * options.get("samples", 1)]
    for name, x in state(model).items():
        moves = work.adapters[0].run.moves(name)
        path = LR * max(len(moves), sum(abs(w) for move in moves for w, _ in move.terms))  # how far weights have gone
        rounding = 2**-21 * (path + x.abs().max().item())
        torch.testing.assert_close(found[name], x, rtol=0, atol=rounding)
        assert not torch.allclose(found[name], state(net())[name], rtol=0, atol=10 * rounding)


def test_what_is_no_sum_is_not_pooled(base, tmp_path):
    saved(net(), tmp_path / "decayed", weight_decay=0.1)
    refused("weight decay", base, tmp_path / "decayed", "--pooled")
    saved(net(), tmp_path / "signs", policy="zo_signsgd", samples=2)
    refused("signs of a sum", base, tmp_path / "signs", "--pooled")


def test_runs_on_each_others_results_are_replayed_in_sequence(base, tmp_path):
    first = saved(net(), tmp_path / "first", weight_decay=0.1)
    middle = first.hybrid.unwrap().state_dict()
    fresh = net()
    fresh.load_state_dict(middle)
    second = saved(fresh, tmp_path / "second", policy="zo_signsgd", weight_decay=0.1)
    output = run(base, tmp_path / "first", tmp_path / "second", "-o", tmp_path / "out")
    assert same(tmp_path / "out" / FILE, second) and "to the bit" in output
    refused("not trained on this base", base, tmp_path / "second", tmp_path / "first", out=tmp_path / "x")
    refused("is for one adapter", base, tmp_path / "first", tmp_path / "second", "--upto", 2, out=tmp_path / "x")


def test_runs_on_one_base_are_added_unless_weights_decay(base, tmp_path):
    start = state(net())
    models = [saved(net(), tmp_path / f"{i}", policy=p) for i, p in enumerate(("mezo", "zo_signsgd"))]
    output = run(base, tmp_path / "0", tmp_path / "1", "-o", tmp_path / "out")
    assert "not verified" in " ".join(output.split())
    found = load_file(tmp_path / "out" / FILE)
    for name, x in start.items():
        expected = sum((state(m)[name] - x for m in models), start=x)
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)
    saved(net(), tmp_path / "2", weight_decay=0.1)
    for pair in (("0", "2"), ("2", "0")):
        refused("weight decay", base, *(tmp_path / i for i in pair), out=tmp_path / "x")


def test_tensors_of_mixed_runs_are_put_in_place(tmp_path):
    base = write_base(deep(), tmp_path / "base")
    model = hybridopt.wrap(deep(), policy=Policy(MIXED))
    optimizer = model.hybrid.optimizer(lr=LR)
    for _ in range(3):
        optimizer.probe(lambda: height(model))
        height(model).backward()
        optimizer.step()
    model.hybrid.save_pretrained(tmp_path / "adapter")
    run(base, tmp_path / "adapter", "-o", tmp_path / "out")
    assert same(tmp_path / "out" / FILE, model)
    refused("at the end", base, tmp_path / "adapter", "--upto", 2, out=tmp_path / "x")


def test_another_base(base, tmp_path):
    saved(net(), tmp_path / "adapter")
    other = state(net())
    other["3.weight"][0, 0] += 1
    save_file(other, base / FILE)
    refused("not trained on this base.*'3.weight' has other values", base, tmp_path / "adapter")
    save_file({n: x.bfloat16() for n, x in state(net()).items()}, base / FILE)
    refused("trained with.*float32.*bfloat16", base, tmp_path / "adapter")
    save_file({f"model.{n}": x for n, x in state(net()).items()}, base / FILE)
    refused("'0.bias'.*'model.0.bias'.*from_pretrained", base, tmp_path / "adapter")


def test_places_that_do_not_do(base, tmp_path):
    adapter = tmp_path / "adapter"
    saved(net(), adapter)
    refused("exists", base, adapter, out=base)
    refused("exists", base, adapter, out=base / "config.json")
    refused("inside", base, adapter, out=base / "inner")
    refused("no folder", base, adapter, out=tmp_path / "a" / "b")
    refused("is no base", tmp_path / "nothing", adapter)
    refused("give the base first", adapter, adapter)
    refused("plain transformers|not a saved folder|no hybridopt_manifest", base, base)
    refused("device='cuda:77'", base, adapter, "--device", "cuda:77")


def test_adapters_that_need_their_model(base, tmp_path):
    model = train(net())
    model.hybrid.save_pretrained(tmp_path / "tensors", replay=False)
    refused("no hybridopt_replay.*changed tensors.*from_pretrained", base, tmp_path / "tensors")
    train(net(), steps=0).hybrid.save_pretrained(tmp_path / "nothing")
    refused("nothing that was trained", base, tmp_path / "nothing")
    lora = hybridopt.wrap(tiny_llama(), peft_config=LoraConfig(r=2, target_modules=["q_proj"]), policy="mezo")
    lora.hybrid.save_pretrained(tmp_path / "lora")
    refused("PEFT adapters.*from_pretrained", base, tmp_path / "lora")


def test_a_failure_in_the_middle_leaves_nothing(base, tmp_path, monkeypatch):
    from hybridopt.saving.rebuilding import replay as replaying

    saved(net(), tmp_path / "adapter")
    monkeypatch.setattr(replaying, "replay_", lambda x, *more: x.add_(1))
    refused("is not what training had made", base, tmp_path / "adapter")


def test_real_checkpoints_load_again(tmp_path):
    tiny_llama().save_pretrained(tmp_path / "base")
    model = hybridopt.wrap(tiny_llama(), policy="lezo", density=0.5)
    optimizer = model.hybrid.optimizer(lr=LR)
    tokens = torch.arange(12).view(2, 6)
    for _ in range(3):
        optimizer.step(lambda: model(tokens, labels=tokens).loss)
    model.hybrid.save_pretrained(tmp_path / "adapter")
    assert len(metadata(tmp_path / "adapter")["groups"]) == 2
    run(tmp_path / "base", tmp_path / "adapter", "-o", tmp_path / "out")
    again = type(model).from_pretrained(tmp_path / "out")
    assert all(torch.equal(x, again.state_dict()[n]) for n, x in model.state_dict().items())
    shutil.rmtree(tmp_path / "out")
