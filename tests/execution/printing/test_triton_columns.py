"""The text of the kernel for chosen columns; that it gives the CPU's bits is checked by benchmarks.launches."""

import ast

import pytest
import torch

from hybridopt import HybridOptimizer, HybridOptWarning
from hybridopt.core.contracts import Draw
from hybridopt.execution.backends import _triton_kernels
from hybridopt.execution.backends.triton import Triton
from hybridopt.execution.meta_tasks import unfilled
from hybridopt.execution.printing.triton.columns import ColumnsKernel
from hybridopt.execution.update_task import Task
from hybridopt.optimizer import updates
from hybridopt.parts import Adafactor, AdamW, Columns, Fp32, Int8, Lion, Muon, NoUpdate, SignSGD
from hybridopt.policy.job import Job
from hybridopt.policy.treatment import Treatment
from support.current_device import CurrentDevice


def text(full, free, codec, random):
    seeds = ("", "low") * random + tuple(full.slots((1, 1))) * (type(codec) is Int8)
    slots = tuple((name, slot.signed) for name, slot in full.slots((512, 256)).items())
    return ColumnsKernel(full, free, slots, codec, random, seeds)


@pytest.mark.parametrize("full", [AdamW(), Lion()])
@pytest.mark.parametrize("free", [SignSGD(), NoUpdate()])
@pytest.mark.parametrize("codec", [Fp32(), Int8()])
@pytest.mark.parametrize("random", [True, False])
def test_every_name_of_the_kernel_is_an_argument_or_made_before(full, free, codec, random):
    layout = text(full, free, codec, random)
    (kernel,) = [node for node in ast.parse(layout.text()).body if isinstance(node, ast.FunctionDef)]
    arguments = [one.arg for one in kernel.args.args]
    assert tuple(arguments) == (*layout.arguments, "BR", "BC", "BK")
    known = {*arguments, "tl", "triton"}
    language = "fma_ div_ sqrt_ sign_ abs_ max_ min_ most_ choose_ halves row_hash column_hash bits16"
    known |= {*language.split(), "stochastic_bf16", "stochastic_level", "range"}
    for node in ast.walk(kernel):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            known.add(node.id)
    used = {node.id for node in ast.walk(kernel) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    assert used <= known
    assert ("row_hash" in used) == (random or type(codec) is Int8)


@pytest.mark.parametrize("full", [AdamW(), Lion()])
def test_scales_of_codes_are_rounded_as_in_eager_updates(full):
    lines = {x.strip() for x in text(full, SignSGD(), Int8(), False).text().splitlines() if " scale = " in x}
    most = torch.rand(4096, generator=torch.Generator().manual_seed(0)) + 0.01
    language = {"most": most, "div_": torch.div, "max_": lambda x, least: x.clamp(min=least)}
    assert lines
    for line in lines:
        assert eval(line.removeprefix("scale = "), language)[:, 0].equal((255 if "255.0" in line else 127) / most)


def task(**options) -> Task:
    shape = options.pop("shape", (512, 1024))
    treatment = Treatment(**{"full": AdamW(), "free": SignSGD(), "split": Columns(0.25)} | options)
    part = treatment.split.at(Draw(0, "w"), shape)
    with torch.device("meta"):
        return unfilled("w", Job(treatment, part, shape), torch.bfloat16, None)


def test_it_takes_the_default_policy_and_leaves_what_it_cannot_print():
    backend = Triton()
    assert backend.devices == {"cuda"} and backend.heeds_sound
    taken: tuple[dict, ...] = {}, {"full": Lion(), "codec": Int8()}, {"free": NoUpdate()}
    assert all(backend.fits(task(**one)) for one in taken)
    assert not backend.fits(task(codec=Int8(), shape=(512, 1000))), "a block would reach over two rows"
    assert not backend.fits(task(codec=Int8(block=128)))
    assert not backend.fits(task(shape=(8, 64))) and not backend.fits(task(shape=(8, 512, 256)))
    assert not backend.fits(task(full=Muon())) and not backend.fits(task(full=Adafactor()))


def test_kernels_are_launched_on_the_device_of_the_weight(monkeypatch):
    """Triton takes the current device, and its stream, even if all tensors are on another one."""
    device, seen = CurrentDevice(monkeypatch), list[int]()
    kernel = {(2,): lambda *given, **constants: seen.append(device.index)}
    _triton_kernels.call([_triton_kernels.KernelLaunch(kernel, 2, {})] * 2, (device.tensor(1),))
    assert seen == [1, 1] and device.index == 0


def test_a_kernel_that_cannot_be_made_is_left_to_others_with_a_warning(monkeypatch):
    weight, same = (torch.nn.Parameter(torch.ones(512, 1024)) for _ in range(2))
    weight.grad = same.grad = torch.randn(512, 1024)
    seen: list[Task] = []
    monkeypatch.setattr(updates, "run", lambda tasks, compile: seen.extend(tasks))
    HybridOptimizer([("w", weight)], policy="frugal", compile=False).step()
    monkeypatch.undo()
    HybridOptimizer([("w", same)], policy="frugal", compile=False).step()
    monkeypatch.setattr(_triton_kernels, "_broken", set())
    monkeypatch.setattr(_triton_kernels, "_worked", set())
    monkeypatch.setattr(_triton_kernels, "installed", lambda planned: True)
    monkeypatch.setattr(_triton_kernels, "made", lambda layout, title: 1 / 0)
    assert Triton().fits(seen[0])
    with pytest.warns(HybridOptWarning, match="ZeroDivisionError.*compile=False"):
        Triton().run(seen)
    assert weight.equal(same) and not Triton().fits(seen[0])
