"""One combination of parts, trained for a few steps and held to what was asked for."""

import traceback
from pathlib import Path

import torch

from hybridopt import HybridOptError
from hybridopt.core.contracts import portion
from hybridopt.core.numerics.split_floats import joined
from hybridopt.execution.state import load
from hybridopt.model.quantization.sizes import fingerprint
from support.grid.cells import DECAY, DENSITY, OPTIONS, TRAINED, refused, trained
from support.grid.first_step import decoded, first_step, nbytes
from support.grid.probe import check_bases, check_downhill, probe, probed
from support.grid.task import loss

STEPS, STEPS_BY_PROBES = 4, 3  # into the second window
LEAST = 2e-3  # by how much the loss falls at the least, of 3.4


def failure(cell):
    """What is wrong with a cell; None where it does what was asked for, or is refused where it has to be."""
    try:
        with trained(cell) as run:
            wrong = _attempt(cell, *run)
    except HybridOptError as error:
        return None if refused(cell) else f"{cell} is refused, and its parts in other combinations are not: {error}"
    return f"{cell} works, and one of its parts' combinations is refused: {refused(cell)}" if refused(cell) else wrong


def _attempt(cell, *run):
    try:
        walk(cell, *run)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{cell}: {type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"


def walk(cell, model, plan, optimizer):
    """Train the cell; AssertionError for anything but what was asked for."""
    check_tags(cell, model, plan)
    frozen = {n: p.detach().clone() for n, p in model.named_parameters() if n not in plan.trained}
    base = fingerprint(model)
    before = loss(model).item()
    check_first_step(cell, model, plan, optimizer)
    for _ in range((STEPS if cell.source == "backprop" else STEPS_BY_PROBES) - 1):
        prepare(cell, model, optimizer)
        optimizer.step()
        optimizer.zero_grad()
    after = loss(model).item()
    if cell.source == "backprop":
        assert after < before - LEAST, f"loss {before:.4f} -> {after:.4f}"
    assert fingerprint(model) == base or cell.store == "int8_trainable", "the quantized base moved"
    for name, p in model.named_parameters():
        assert name not in frozen or (p.grad is None and p.equal(frozen[name])), f"{name} is frozen, and moved"


def prepare(cell, model, optimizer):
    """Everything that a step needs."""
    if optimizer.probes_needed:
        probe(model, optimizer)
    if cell.first_order:
        loss(model).backward()


def check_tags(cell, model, plan):
    """Exactly the layers, or their adapters, are trained, with the tag of the split."""
    tag = {"whole": "state-full", "empty": "state-free"}.get(cell.split, "split")
    tags = model.hybrid.tags
    for name, role, trainable in ((e.param.name, e.param.role, e.param.trainable) for e in plan.entries):
        wanted = tag if trainable and role in TRAINED.split("|") else "frozen"
        assert tags[name] == wanted, f"{name} is {tags[name]}"
    assert len(plan.trained) == (3 if cell.adapters == "full" else 6)


def check_first_step(cell, model, plan, optimizer):
    """Weights, state, bytes and gradients after one step are those that the parts say, at the time they say."""
    live = {n: p for n, p in model.named_parameters() if n in plan.trained}
    jobs = {e.param.name: plan.job(e, 0) for e in plan.entries if e.treatment is not None}
    start = {n: plain(p) for n, p in live.items()}
    grads = gradients(cell, model, optimizer, live, jobs)
    check_release(cell, live, jobs, start)
    early = {n: plain(p) for n, p in live.items()}
    optimizer.step()
    optimizer.zero_grad()
    for name, p in live.items():
        done_early = cell.release == "fused" and cell.first_order
        assert not done_early or plain(p).equal(early[name]), f"{name} was updated after the backward pass"
        raw = {k: x for k, x in optimizer.state.get(p, {}).items() if isinstance(x, torch.Tensor)}
        bases = check_bases(cell, optimizer, name, jobs[name])
        if grads[name] is None:
            assert not raw and plain(p).equal(start[name]), f"{name} was to be left alone in this step"
            continue
        basis = {k.removeprefix("split."): raw.pop(k) for k in list(raw) if k.startswith("split.")}
        low = raw.pop("weight.low", None) if cell.store == "bf16_split" else None
        moves = cell.store == "bf16_split" and not jobs[name].idle
        assert (low is not None) == moves, f"{name} keeps {'no' if moves else 'a'} part of the weight in its state"
        check_split(cell, jobs[name], grads[name], basis)
        update, state = first_step(start[name], grads[name], jobs[name], basis, name)
        check_weight(cell, name, p, (start[name], update), low)
        check_state(cell, name, jobs[name], raw, state)
        kept = bases + sum(x.nbytes for x in (*raw.values(), *basis.values())) + (0 if low is None else low.nbytes)
        later = (
            p.numel() if cell.store == "bf16_split" and not moves else 0
        )  # of its first turn, planned from the start
        planned = plan.state_bytes[name][0] - later
        assert kept == planned, f"{name}: {kept} bytes of state, {planned} planned"
    if cell.descends:
        check_downhill(cell, model, start, live, DECAY)


def gradients(cell, model, optimizer, live, jobs):
    """Measure what the step needs; the gradients that follow, by name, and None where there is to be no step."""
    if cell.source == "backprop":
        return _backward(model, live)
    grads = probed(cell, model, optimizer, live, jobs)
    if not cell.first_order:
        assert not loss(model).requires_grad, "gradients are asked for that nobody needs"
        return grads
    share = jobs[next(iter(jobs))].treatment.source.share
    found = _backward(model, live)
    return {n: None if grads[n] is None else share * g + grads[n] for n, g in found.items()}


def _backward(model, live):
    """Run the backward pass of training; its gradients, in a graph that nobody keeps."""
    now = loss(model)
    found = torch.autograd.grad(now, live.values(), retain_graph=True)
    now.backward()
    return {n: g.float() for n, g in zip(live, found, strict=True)}


def check_release(cell, live, jobs, start):
    """After the backward pass: updated and freed, or neither; gradients that nobody needs are freed anyway."""
    fused = cell.release == "fused" and cell.first_order
    for name, p in live.items():
        idle = jobs[name].idle or not cell.first_order
        assert (p.grad is None) == (fused or idle), f"{name}: its gradient was {'kept' if fused or idle else 'freed'}"
        moved = not plain(p).equal(start[name])
        assert fused or not moved, f"{name} was updated in the backward pass"


def check_weight(cell, name, p, given, low=None):
    """(1 - decay) * start - lr * update, to the rounding of the store; `low`: what it keeps beside the weight."""
    start, update = given
    wanted = start if update is None else start * (1 - DECAY) - cell.lr * update
    off = (plain(p) - wanted).abs()
    near = slack(p, wanted, start - wanted)
    if low is not None:
        off = torch.maximum(off / 2**8, (joined(p.detach(), low) - wanted).abs())
        near = 1e-4 * (start - wanted).abs().max() + 2**-15 * wanted.abs()
    assert (off <= near).all(), f"{name} is off by {off.max():.2e} after the first step"


def check_state(cell, name, job, raw, wanted):
    """The slots of the rule by the codec: numbers and bytes."""
    low, block = job.part.shape(job.shape), OPTIONS["int8"]["block"]
    slots = {} if low is None else job.treatment.full.slots(low)
    loaded = load(job, raw, True) | load(job, raw, False)
    assert slots.keys() == wanted.keys(), f"{name}: {sorted(slots)} are declared"
    for key, slot in slots.items():
        kept, near = decoded(raw, key, slot, cell.codec, block)
        assert (loaded[key] - kept).abs().max() <= 1e-5 * kept.abs().max(), (
            f"{name}: {key} is loaded as something else"
        )
        off = (kept - wanted[key].view(kept.shape)).abs()
        assert (off <= 1.01 * near + 1e-12).all(), f"{name}: {key} is off by {off.max():.2e}"
    declared = sum(x.nbytes for x in raw.values())
    assert declared == nbytes(slots, cell.codec, block), f"{name}: {declared} bytes of state"


def check_split(cell, job, grad, basis):
    """The share that was asked for is state-full, of the kind that was asked for."""
    kind, (m, n) = type(job.part).__name__, job.shape
    if cell.split in ("whole", "empty", "block"):
        assert kind in {"whole": ("Whole",), "empty": ("Empty",)}.get(cell.split, ("Whole", "Empty"))
        return
    units = {"columns": n, "rows": m, "randk": m * n}.get(cell.split, min(m, n))
    low = torch.Size(job.part.shape(job.shape)).numel()
    assert low == portion(DENSITY, units) * m * n // units
    if cell.split in ("columns", "rows"):
        assert (kind, job.part.dim) == ("Lines", {"columns": -1, "rows": -2}[cell.split])
    if cell.split in ("svd", "random"):
        _check_basis(cell, grad, basis["basis"])


def _check_basis(cell, grad, q):
    """Orthonormal, and for svd the leading directions."""
    torch.testing.assert_close(q.T @ q, torch.eye(q.shape[1]), atol=1e-4, rtol=0)
    energy = (grad @ q if len(q) == grad.shape[1] else q.T @ grad).square().sum()
    most = torch.linalg.svdvals(grad)[: q.shape[1]].square().sum()
    assert (cell.split == "random") == (energy < 0.999 * most), f"{energy:.2e} of {most:.2e}"


def plain(p):
    """A weight as float numbers of its own."""
    return (p.detach().dequantize(torch.float32) if hasattr(p, "codes") else p.detach().float()).clone()


def slack(p, wanted, update):
    """How far rounding may take a weight: of float32, to a neighbour in bfloat16, or by a level of its codes."""
    near = 1e-4 * update.abs().max() + 1e-6 * wanted.abs()
    if p.dtype == torch.bfloat16:
        return near + 2**-7 * wanted.abs()
    if hasattr(p, "codes"):
        return near + 1.01 * p.scale.repeat_interleave(256).view(p.shape)
    return near
