"""The comparison with flashoptim: its formulas, by hand and by its own kernel, and what is kept of float32."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks.flashoptim import __main__ as command
from benchmarks.flashoptim import formulas, held, interpreted, measure, quality, table

OWN = "hybridopt: bf16_split, companded8"
FLASH = "flashoptim 0.1.4: 24 bits, 8 bits"


def test_a_weight_keeps_127ths_of_half_a_place():
    x = torch.tensor([1 + 2**-9, -1 - 2**-9, 1.0, 2**-10 * (1 + 2**-10), 2.0**-130])
    near = x.bfloat16()
    errors = formulas.errors_of(x, near)
    assert errors.tolist()[:4] == [64, -64, 0, 32]  # half of 127, halves away from zero; a quarter
    back = formulas.joined(near, errors)
    assert back[0] == 1 + 64 / 127 * 2**-8
    assert ((back - x).abs() <= torch.ldexp(torch.full((5,), 1 / 250), formulas.half_place(near))).all()


def test_moments_keep_shares_of_the_largest_in_32():
    state = formulas.State.of(torch.zeros(40, dtype=torch.bfloat16))
    grad = torch.zeros(40, dtype=torch.bfloat16)
    grad[0], grad[1], grad[35] = 1.0, -0.5, 4.0
    formulas.step(state, grad, 1e-3)
    assert state.mom.tolist()[:3] == [127, -85, 0] and state.mom[35] == 127  # 2 u / (1 + u): two thirds
    assert state.var.tolist()[:3] == [255, 128, 0] and state.var[35] == 255
    assert state.mom_scales.tolist() == pytest.approx([0.1, 0.4], rel=1e-3)
    moved = formulas.first_of(state.mom, state.mom_scales)
    assert moved[1] == pytest.approx(-0.05, rel=0.01) and moved[35] == pytest.approx(0.4, rel=1e-3)
    assert state.weight()[[0, 1, 2, 35]].tolist() == pytest.approx([-1e-3, 1e-3, 0, -1e-3], rel=1e-2)


@pytest.mark.parametrize("way", held.WAYS)
def test_every_way_takes_the_steps_of_adamw(way):
    random, start = torch.Generator().manual_seed(0), measure.weights(4096)
    one, other = held.WAYS[way](start.clone()), torch.nn.Parameter(start.float())
    adamw = torch.optim.AdamW([other], lr=1e-3, weight_decay=0.0)
    for _ in range(4):
        other.grad = torch.randn(4096, generator=random).bfloat16().float()
        one.step(other.grad.bfloat16(), 1e-3)
        adamw.step()
    apart = (one.weight() - other.detach()).norm() / (other.detach() - start.float()).norm()
    assert apart < 0.08 and torch.equal(start, measure.weights(4096))
    assert one.second().sqrt() == pytest.approx(adamw.state[other]["exp_avg_sq"].sqrt(), abs=2e-3)


@pytest.mark.parametrize("size", measure.SIZES)
def test_small_gradients_reach_the_weights(size):
    assert measure.small(OWN, size, steps=10) < 0.02


def test_scales_in_float16_lose_small_gradients():
    assert measure.small(FLASH, 1e-2, steps=10) < 0.01 < 0.3 < measure.small(FLASH, 1e-8, steps=10)


def test_what_is_rounded_at_random_fades_and_what_is_rounded_to_nearest_stays():
    assert measure.ended(OWN, 5, 200) == pytest.approx(1.0, abs=0.02)
    assert measure.ended(FLASH, 5, 200) > 1.1


def test_bytes_of_a_parameter():
    found = {way: measure.bytes_each(way, 2**16) for way in held.WAYS}
    assert found[FLASH] == 2 + 1 + 2 * (1 + 2 / 32)
    assert found[OWN] == pytest.approx(2 + 1 + 2 * (1 + 4 / 128))
    assert found[table.YARDSTICK] == 14


def test_a_weight_is_off_by_half_a_step_of_256_to_the_place():
    found = measure.places()
    assert found["hybridopt"] == 1 / 512 and 1 / 512 < found["flashoptim"] < 1 / 500


needed = [name for name in interpreted.missing() if "=" not in name]


@pytest.mark.skipif(bool(needed), reason=f"needs {', '.join(needed)}")
def test_the_formulas_are_those_of_the_packages_own_kernel():
    program = "from benchmarks.flashoptim.measure import bits; import json; print(json.dumps(bits(4, 70)))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found["differ"].values()) == {0} and "CUDA" in found["refusal"]


# ---- quality, and the whole


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    (folder / quality.TEXT).parent.mkdir()
    (folder / quality.TEXT).write_text("to be or not to be that is the question " * 60)
    return folder


def test_gradients_are_clipped_and_made_as_small_as_a_larger_models():
    model = torch.nn.Linear(3, 1, bias=False)
    model.weight.grad = torch.tensor([[3.0, 0.0, 4.0]])
    quality.shrink(model, 0.5)
    assert model.weight.grad.tolist() == [[pytest.approx(0.3), 0.0, pytest.approx(0.4)]]


def test_from_text_to_table_and_nothing_twice(folder, tmp_path, monkeypatch):
    short = quality.Run(hidden=8, layers=1, intermediate=16, heads=2, sequence=8, batch=2)
    options = command.parse(["--data", str(folder), "--out", str(tmp_path), "--steps", "2", "--seeds", "0"])
    monkeypatch.setattr(command, "Run", lambda steps, parameters: replace(short, steps=steps, parameters=parameters))
    monkeypatch.setattr(measure, "bits", lambda: {"missing": ["triton"]})
    monkeypatch.setattr(measure, "ended", lambda way: 1.5)
    monkeypatch.setattr(measure, "small", lambda way, size: size)
    monkeypatch.setattr(measure, "bytes_each", lambda way: 14.0)
    monkeypatch.setattr(quality, "windows", lambda text, run, generator: text[: run.sequence].repeat(2, 1))
    records = command.records_at(tmp_path)
    command.fill(records, options)
    text = records.path.read_text()
    assert len(text.splitlines()) == 2 + 3 * len(held.WAYS) + 2 * len(held.WAYS)
    command.fill(records, options)
    assert records.path.read_text() == text
    said = table.publish(records)
    assert "missing: triton." in said and said.count("| 1.50 |") == len(held.WAYS)
    lines = [line for line in said.splitlines() if line.startswith(f"| {table.YARDSTICK}")]
    assert lines[0].split("|")[2].strip() == "14.000" and lines[1].count("+0.0000") == 2
    assert (tmp_path / "flashoptim.md").read_text() == said
