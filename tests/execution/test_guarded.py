"""What an update writes is put back where its flag is False, bit by bit, by backends that know of no flags, too."""

from dataclasses import replace

import pytest
import torch

from hybridopt.core.contracts import Backend
from hybridopt.execution.backends import compiled
from hybridopt.execution.conditional_updates import written
from hybridopt.execution.dispatch import backends, carry_out
from support.training import assert_same
from support.updates import Cell, tasks_of

DTYPES = ["fp32", "fp64", "bf16", "fp16", "codes"]


class Careless(Backend):
    """Writes NaN, or the largest code, to all that an update may write."""

    name, rank = "careless", 1

    def fits(self, task):
        return True

    def run(self, tasks):
        for task in tasks:
            assert task.grad is not None
            for x in written(task.param, task.raw):
                x.fill_(float("nan") if x.is_floating_point() else torch.iinfo(x.dtype).max)

    def tolerance(self, task):
        return 0.0

    def temporaries(self, tasks, measured):
        return measured()


@pytest.mark.parametrize("sound", [True, False])
@pytest.mark.parametrize("weight", DTYPES)
def test_flags_of_a_backend_that_heeds_none(weight, sound):
    one, other = (tasks_of(Cell("adamw", "columns", "int8", weight))[0] for _ in range(2))
    if weight != "codes":
        one.param.view(-1)[0] = other.param.view(-1)[0] = -0.0
    carry_out(Careless(), [replace(one, sound=torch.tensor(sound))])
    if sound:
        Careless().run([other])
    assert_same(written(one.param, one.raw), written(other.param, other.raw))


def test_every_backend_of_an_accelerator_heeds_flags_but_the_one_of_stacks():
    """A guard around one that does not copies all that it writes, whatever it cuts into slices."""
    careless = {b.name for b in backends() if not b.heeds_sound and (b.devices is None or "cuda" in b.devices)}
    assert careless == {"banks"}, "with fused release updates come one by one, and nothing is stacked"


def test_a_rate_in_a_tensor_of_the_host_is_no_copy_of_its_own(monkeypatch):
    """For which the host would wait, for every parameter."""
    sent = []
    monkeypatch.setattr(compiled, "_sent", lambda numbers, *_: sent.append(numbers) or torch.tensor(numbers))
    elsewhere, cpu = torch.device("meta"), torch.device("cpu")
    assert compiled._vector([torch.tensor(0.25), 0.5], torch.float32, elsewhere).tolist() == [0.25, 0.5]
    assert compiled._vector([torch.tensor(0.25), 0.5], torch.float32, cpu).tolist() == [0.25, 0.5]
    assert sent == [(0.25, 0.5), (0.0, 0.5)]
