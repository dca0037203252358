"""Rules on their own, run as an update runs them: every round over slices of rows, then the direction."""

import torch

__all__ = ["directions", "extremes", "state_for", "step", "train"]


def state_for(rule, shape, dtype=torch.float64):
    """Zeros for every slot of a rule."""
    return {name: torch.zeros(slot.shape, dtype=dtype) for name, slot in rule.slots(tuple(shape)).items()}


def step(rule, grad, state, param=None, t=1, cuts=(), key=0):
    """One step on a matrix [..., m, n]: looks at slices that begin at rows `cuts`, returns the direction.

    key: the seed of rules that draw at random.
    """
    pieces = _pieces(grad.shape[-2], cuts if rule.looks is not None else ())
    now, rows, own = {"key": key, **rule.numbers(t)}, {}, _elementwise(rule, grad.shape)
    for i in range(rule.looks or 0):
        found = [
            rule.look(i, grad[..., p, :], _own(state, own, p), _cut(param, p), now | _rows(rows, p)) for p in pieces
        ]
        joined = {k: torch.cat([f[0][k] for f in found], -2) for k in found[0][0]}
        added = {k: sum(f[1][k] for f in found) for k in found[0][1]}
        whole = {k: x for k, x in state.items() if k not in own}
        more, rest = rule.settle(i, joined, added, whole, now | rows)
        now, rows = now | rest, rows | more
    out = []
    for p in pieces:
        mine = _own(state, own, p) if rule.looks is not None else state
        out.append(rule.update(grad[..., p, :], mine, _cut(param, p), now | _rows(rows, p)))
    return torch.cat(out, -2)


def directions(rule, grads, param=None, cuts=(), dtype=torch.float64):
    """The directions for a sequence of gradients at a fixed weight, and the state they leave."""
    state = state_for(rule, grads[0].shape, dtype)
    return [step(rule, grad, state, param, t, cuts) for t, grad in enumerate(grads, 1)], state


def train(rule, params, grads, lr):
    """Copies of the weights by name after `grads` (by step, then by name); vectors go as matrices of one row."""
    weights = {name: p.detach().clone() for name, p in params.items()}
    views = {name: w if w.ndim > 1 else w.unsqueeze(0) for name, w in weights.items()}
    states = {name: state_for(rule, w.shape, w.dtype) for name, w in views.items()}
    for t, given in enumerate(grads, 1):
        for name, w in views.items():
            w.sub_(step(rule, given[name].view_as(w), states[name], w, t, (1, 4)), alpha=lr)
    return weights


def extremes(dtype=torch.float32):
    """Gradients by name, [3, 6, 5], on which squares underflow, overflow or vanish; three steps each."""
    g = torch.randn(3, 6, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)
    holes, late, mixed = g.clone(), g.clone(), g.clone()
    holes[:, 1:3], holes[:, :, 4] = 0, 0
    late[0] = 0
    mixed[:, 0] *= 1e-20
    mixed[:, 1] *= 1e10
    mixed[:, 2] = 0
    sizes = {f"{size:g}": g * size for size in (0.0, 1e-30, 1e-20, 1e10, 1e18, 1e25)}
    return sizes | {"rows and columns of zeros": holes, "zero at first": late, "mixed": mixed}


def _own(state, elementwise, piece):
    return {k: x[..., piece, :] for k, x in state.items() if k in elementwise}


def _elementwise(rule, shape):
    return {k for k, slot in rule.slots(tuple(shape)).items() if slot.shape == tuple(shape) and not slot.settled}


def _pieces(rows, cuts):
    ends = [0, *(c for c in cuts if 0 < c < rows), rows]
    return [slice(a, b) for a, b in zip(ends, ends[1:], strict=False)]


def _rows(rows, piece):
    return {k: x[..., piece, :] for k, x in rows.items()}


def _cut(param, piece):
    return None if param is None else param[..., piece, :]
