"""What makes a search quick changes none of its numbers."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from hybridopt.core.storages import storage_id
from hybridopt.planning import Estimator, Request, estimator
from hybridopt.planning.subject.model import Subject
from hybridopt.planning.trace.quick_fakes import QuickFakes

pytestmark = pytest.mark.slow

SETTINGS = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 9,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 128,
}  # fmt: skip
SIZE = {"seq_len": 32, "device": "cpu"}
LORA = {"policy": "adamw", "lora": 4}
REQUESTS = (
    Request(policy="adamw", **SIZE),
    Request(policy="adamw", **SIZE, chunk=8),
    Request(**LORA, **SIZE, checkpointing=True),
    Request(**LORA, **SIZE, checkpointing=True, quantization="int8"),
    Request(policy="mezo", **SIZE),
)


@pytest.fixture(scope="module")
def quick():
    """An estimator with the traces of all requests, how many passes were simulated, and tensors made again."""
    ran, again = [], []
    simulate, fake = estimator.simulate, QuickFakes.made
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimator, "simulate", lambda *a: ran.append(0) or simulate(*a))
        patch.setattr(QuickFakes, "made", lambda *a: again.append(0) or fake(*a))
        found = Estimator(Subject("it", SETTINGS))
        for request in REQUESTS:
            found.estimate(request)
    return list(found._traces.values()), len(ran), len(again)


def test_passes_are_those_on_the_fake_tensors_of_torch(quick, monkeypatch):
    monkeypatch.setattr(QuickFakes, "dispatch", FakeTensorMode.dispatch)
    monkeypatch.setattr(QuickFakes, "known_of", lambda *_: NotImplemented)
    other = Estimator(Subject("it", SETTINGS))
    for request in REQUESTS:
        other.estimate(request)
    traces, _, again = quick
    assert traces == list(other._traces.values()) and again > 1000


@pytest.mark.parametrize(
    "run",
    [
        lambda x: x.reshape(-1).narrow(0, 3, 4),
        lambda x: x.t()[1:],
        lambda x: x.mul_(2),
        lambda x: torch.ops.aten._unsafe_view(x, [8]),  # shares memory, and does not say so
        lambda x: torch.ops.aten.to.dtype(x, torch.float32),  # itself
        lambda x: torch.ops.aten.to.dtype(x, torch.float64),
        lambda x: x * 2,
        lambda x: (x.to(torch.int64) * 1, x.to(torch.int64) * 1.0)[1],  # 1 == 1.0
        lambda x: torch.cat([x, x[:1]]),
        lambda x: x.max(0).values,
        lambda x: torch.view_as_complex(x),
    ],
)  # fmt: skip
def test_an_operation_makes_the_same_again(run, monkeypatch):
    monkeypatch.setattr(QuickFakes, "known", {})

    def told(x, y):
        same = storage_id(y) == storage_id(x)
        return y.shape, y.stride(), y.storage_offset(), y.dtype, y.device, y.untyped_storage().nbytes(), same

    found = []
    for mode in (FakeTensorMode(), QuickFakes(), QuickFakes()):
        with mode:
            x = torch.empty(4, 2)
            found.append(told(x, run(x)))
            assert type(x) is FakeTensor
    assert found[0] == found[1] == found[2]


def test_another_default_dtype_makes_other_quotients(monkeypatch):
    monkeypatch.setattr(QuickFakes, "known", {})
    before, found = torch.get_default_dtype(), []
    try:
        with QuickFakes():
            x = torch.ones(3, dtype=torch.int64)
            for dtype in (torch.float32, torch.float64, torch.float32):
                torch.set_default_dtype(dtype)
                found.append((x / x).dtype)
    finally:
        torch.set_default_dtype(before)
    assert found == [torch.float32, torch.float64, torch.float32]


def test_fewer_layers_are_told_by_more_where_that_was_seen_to_be_right(quick, monkeypatch):
    traces, ran, _ = quick
    assert ran == 2 * len(REQUESTS) - 1  # only the pass with chunks is one of a kind that was seen before
    monkeypatch.setattr(estimator, "shortened", lambda long, *_: long)  # which is wrong
    slow = Estimator(Subject("it", SETTINGS))
    for request in REQUESTS[:2]:
        slow.estimate(request)
    assert list(slow._traces.values()) == traces[:2]
