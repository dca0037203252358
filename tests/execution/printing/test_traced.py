"""What is printed of a rule computes what the rule does."""

from dataclasses import dataclass

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from hybridopt.core.contracts import Rule, Slot
from hybridopt.core.registry import find, names
from hybridopt.execution.printing.tracing.updates import printable, traced
from hybridopt.parts import AdamW, Lion, Muon, SignSGD

LANGUAGE = {
    "fma_": lambda a, b, c: (_wide(a) * _wide(b) + _wide(c)).float(),
    "div_": lambda a, b: a / b,
    "sqrt_": lambda a: a.sqrt(),
    "sign_": lambda a: a.sign(),
    "abs_": lambda a: a.abs(),
    "max_": torch.maximum,
    "min_": torch.minimum,
    "choose_": torch.where,
}
PRINTED = [rule for rule in (find("rules", name) for name in names("rules")) if printable(rule())]


def _wide(x):
    return torch.as_tensor(x, dtype=torch.float64)


def run(text, known):
    """Evaluate what was printed with torch, element by element."""
    for name, right in text.lines:
        known[name] = eval(right, {**LANGUAGE, **known})
    return known[text.direction], {slot: known[name] for slot, name in text.state.items()}


@dataclass(frozen=True)
class Clipped(Rule):
    """A rule that chooses, compares, and reads the weight."""

    local, looks, reads_param = True, 0, True

    def slots(self, shape):
        return {"largest": Slot(shape, signed=False)}

    def numbers(self, step):
        return {"pull": 0.5 * step}

    def update(self, grad, state, param, now):
        top = state["largest"].copy_(torch.maximum(state["largest"] * 0.9, grad.abs()))
        inner = torch.where(grad.abs() < 0.5 * top, grad, top.neg())
        return inner.add(param, alpha=0.25).mul(now["pull"])


@pytest.mark.parametrize("where", [lambda: torch.device("meta"), FakeTensorMode], ids=["meta", "fake"])
def test_rules_are_printed_where_new_tensors_have_no_memory(where):
    wanted = traced(AdamW(betas=(0.25, 0.5)))
    with where():
        assert traced(AdamW(betas=(0.25, 0.5), eps=1e-7)).lines != wanted.lines
        assert printable(AdamW(betas=(0.25, 0.75)))


@pytest.mark.parametrize("rule", [kind() for kind in PRINTED] + [AdamW(betas=(0.3, 0.5), eps=1e-3), Clipped()])
def test_the_text_moves_state_and_weights_as_the_rule_does(rule):
    generator = torch.Generator().manual_seed(0)
    shape = (16, 32)
    grad, weight = (torch.randn(shape, generator=generator) for _ in range(2))
    grad[0] = 0
    state = {name: torch.rand(shape, generator=generator) for name in rule.slots(shape)}
    numbers = rule.numbers(3)
    known = {"g": grad, "p": weight, **{f"n_{k}": torch.tensor(x) for k, x in numbers.items()}}
    direction, moved = run(traced(rule), known | {f"s_{k}": x.clone() for k, x in state.items()})
    before = {name: x.clone() for name, x in state.items()}
    expected = rule.update(grad, state, weight if rule.reads_param else None, {"key": 0, **numbers})
    torch.testing.assert_close(direction, expected, rtol=3e-7, atol=1e-37)
    for name, x in state.items():
        torch.testing.assert_close(moved.get(name, before[name]), x, rtol=3e-7, atol=1e-37)
    assert set(moved) == {name for name in state if not before[name].equal(state[name])}


def test_rules_of_signs_print_to_the_same_bits():
    grad, momentum = torch.randn(64, 64), torch.randn(64, 64)
    assert run(traced(SignSGD()), {"g": grad})[0].equal(grad.sign())
    found, _ = run(traced(Lion()), {"g": grad, "s_exp_avg": momentum})
    assert found.equal(Lion().update(grad, {"exp_avg": momentum.clone()}, None, {}))


def test_two_rules_fit_into_one_kernel():
    text = traced(AdamW()).renamed("f_")
    own = {name for name, _ in text.lines}
    assert own and not own & {name for name, _ in traced(AdamW()).lines}
    words = {word for _, right in text.lines for word in right.replace("(", " ").replace(",", " ").split()}
    assert {"g", "s_exp_avg"} <= words and text.direction in own


def test_what_cannot_be_printed_is_left_to_others():
    @dataclass(frozen=True)
    class Sorted(Rule):
        local, looks = True, 0

        def update(self, grad, state, param, now):
            return grad.sort().values

    assert not printable(Sorted()) and not printable(Muon())


UNTRACED = {  # rules that eager updates take, and a loop over elements does not
    "asks for a number of the step": lambda grad, m, now: m * 2 if now["age"] > 1 else m,
    "asks for an element": lambda grad, m, now: m if float(grad[0, 0]) > 0 else -m,
    "has a tensor of its own": lambda grad, m, now: m * torch.tensor(2.0),
    "clamps by tensors": lambda grad, m, now: torch.clamp(grad, -m.abs(), m.abs()),
    "subtracts a multiple": lambda grad, m, now: torch.rsub(grad, 3, alpha=2),
    "rounds a quotient": lambda grad, m, now: torch.div(m, 0.01, rounding_mode="floor"),
    "takes truths for numbers": lambda grad, m, now: m * (m > 0),
    "returns truths": lambda grad, m, now: m > 0,
    "works in double": lambda grad, m, now: (m.double() * 2).float(),
}


@dataclass(frozen=True)
class Odd(Rule):
    """A local rule whose update is one of `UNTRACED`."""

    how: str
    local, looks = True, 0

    def slots(self, shape):
        return {"m": Slot(shape)}

    def numbers(self, step):
        return {"age": float(step)}

    def update(self, grad, state, param, now):
        return UNTRACED[self.how](grad, state["m"].lerp_(grad, 0.1), now)


@pytest.mark.parametrize("how", UNTRACED)
def test_what_cannot_be_traced_goes_another_way(how):
    assert not printable(Odd(how))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_rules_are_traced_in_float32_whatever_the_default(dtype):
    before = torch.get_default_dtype()
    wanted = traced(Lion(betas=(0.25, 0.5)))
    try:
        torch.set_default_dtype(dtype)
        assert len(traced(Lion(betas=(0.25, 0.75))).lines) == len(wanted.lines)
    finally:
        torch.set_default_dtype(before)
