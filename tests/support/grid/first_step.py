"""What the first step of a combination does to one parameter, put together from its rules and a plain restatement
of the splits."""

import torch

from hybridopt.core.contracts import stream
from support.rule_driver import state_for, step


def first_step(param, grad, job, basis, name):
    """The update and the rule's state; (None, {}) where the parameter stands still.

    param, grad: float, as they were. basis: what the optimizer keeps of the split.
    """
    treatment, part = job.treatment, job.part
    low, rest, up = divide(grad, part, basis)
    if low is None and treatment.free.idle:
        return None, {}
    out, state = torch.zeros_like(grad), {}
    if rest is not None:
        out, _ = _direction(treatment.free, rest, param, name)
        out = out * treatment.free_lr_scale
    if low is not None:
        weight = divide(param, part, basis)[0]
        direction, state = _direction(treatment.full, low, weight, name)
        out = up(out, direction)
    return out, state


def divide(x, part, basis):
    """The state-full part, the state-free part, and how the former joins the latter."""
    match type(part).__name__:
        case "Whole":
            return x, None, lambda out, low: low
        case "Empty":
            return None, x, None
        case "Lines":
            return _entries(x, _lines(x, part.dim, basis["index"]), part.shape(tuple(x.shape)))
        case "Entries":
            start, stride = basis["walk"].tolist()
            return _entries(x, (start + torch.arange(part.count)) % x.numel() * stride % x.numel(), (part.count,))
    q = basis["basis"]
    if len(q) == x.shape[1]:
        return x @ q, x - x @ q @ q.T, lambda out, low: out + low @ q.T
    return q.T @ x, x - q @ (q.T @ x), lambda out, low: out + q @ low


def decoded(raw, name, slot, codec, block):
    """What is kept of a slot, as numbers, and how far they may be from what was to be kept."""
    kept = raw[name].float()
    if codec == "fp32" or slot.exact:
        return kept, 1e-5 * kept.abs().max()
    if codec == "bf16":
        return kept, 2**-7 * kept.abs()
    top = 127 if slot.signed else 255
    level = (raw[name + "_absmax"] / top).repeat_interleave(block)[: kept.numel()].view(kept.shape)
    if codec == "companded8" and slot.signed:
        return kept * top / (2 * top - kept.abs()) * level, 2 * level  # levels are twice as far apart at the top
    kept = kept * level
    return (kept, level) if slot.signed else (kept.square(), 2 * kept * level + level.square())


def nbytes(slots, codec, block):
    """Bytes of a rule's slots by this codec."""
    each = {"fp32": lambda n: 4 * n, "bf16": lambda n: 2 * n}
    each |= dict.fromkeys(("int8", "companded8"), lambda n: n + 4 * -(-n // block))
    return sum(each["fp32" if slot.exact else codec](torch.Size(slot.shape).numel()) for slot in slots.values())


def _lines(x, dim, index):
    assert len(index.unique()) == len(index)
    return torch.arange(x.numel()).view(x.shape).index_select(dim, index).flatten()


def _entries(x, at, shape):
    rest = x.flatten().clone()
    rest[at] = 0

    def up(out, low):
        out = out.flatten().clone()
        out[at] = low.flatten()
        return out.view(x.shape)

    return x.flatten()[at].view(shape), rest.view(x.shape), up


def _direction(rule, x, param, name):
    """One step of a rule; a local one takes vectors, too."""
    matrix = x if x.ndim > 1 else x.unsqueeze(0)
    weight = param.view(matrix.shape) if rule.reads_param else None
    state = state_for(rule, matrix.shape, torch.float32)
    out = step(rule, matrix, state, weight, 1, key=stream(0, name))
    return out.view(x.shape), state
