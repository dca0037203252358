"""What a probe has to find out, put together from directions and losses by themselves."""

import math
import statistics

import torch
from torch.func import functional_call

from hybridopt.core.contracts import Draw, Population
from hybridopt.core.numerics.directions import Direction, values
from hybridopt.execution.state import allocate
from support.grid.cells import PROBING
from support.grid.task import loss


def probe(model, optimizer):
    """The mean loss; always by the same code, so that it is only watched once."""
    return optimizer.probe(lambda: loss(model))


def probed(cell, model, optimizer, live, jobs):
    """Probe, hold the slopes to what the losses say, and return the gradients' zeroth-order share by name.

    None where a parameter is left alone in this step.
    """
    source = next(iter(jobs.values())).treatment.source
    found = {n: [] if jobs[n].idle else directions(source, n, p, live) for n, p in live.items()}
    mean = probe(model, optimizer)
    slopes, wanted = optimizer.slopes, _slopes(cell, model, source, live, found)
    near = 1e-6 / source.eps if source.scheme.normalized else 1e-6
    torch.testing.assert_close(slopes, wanted[0], rtol=1e-4, atol=near)
    torch.testing.assert_close(mean, wanted[1], rtol=1e-6, atol=0)
    weights = _weights(cell.source, source, slopes)
    return {n: sum(w * z for w, z in zip(weights, zs, strict=True)) if zs else None for n, zs in found.items()}


def directions(source, name, p, live):
    """All z of a parameter in the first step; none where its layer is not in turn."""
    draw = Draw(0, name, population=Population(tuple((n, x.numel()) for n, x in live.items())))
    basis = {k: allocate(slot, p.device) for k, slot in source.slots(tuple(p.shape)).items()}
    source.sample(basis, draw)
    found = (source.noise(draw, tuple(p.shape), k, basis) for k in range(source.scheme.samples))
    return [_values(z, p.numel()).view(p.shape) for z in found if z is not None]


def check_downhill(cell, model, start, live, decay):
    """The slope of the loss along the step that was made: not upwards where that was by SGD."""
    weights = {n: x.requires_grad_() for n, x in start.items()}
    grads = torch.autograd.grad(_loss_at(model, weights), weights.values())
    step = {n: (p.detach() - (1 - decay) * start[n]).double() for n, p in live.items()}
    rise = sum((g * step[n]).sum().item() for n, g in zip(weights, grads, strict=True))
    assert rise < 0, f"{cell.source} steps uphill: {rise:.2e}"


def check_bases(cell, optimizer, name, job):
    """Bytes of what the directions of a parameter are made of; it comes to be when it is first shifted."""
    bases = optimizer._parameters.shifts.noises._bases.get(name, (0, {}))[1]
    if cell.source != "subzero":
        assert not bases
        return 0
    m, n = {8192: (128, 64), 512: (32, 16), 256: (16, 16)}[math.prod(job.shape)]  # adapters nearly square
    rank = PROBING["subzero"]["rank"]
    shapes = [] if job.idle else [(m, rank), (n, rank)]
    assert sorted(map(tuple, (x.shape for x in bases.values()))) == sorted(shapes)
    return 4 * rank * (m + n)


def _values(z, count):
    cpu = torch.device("cpu")
    return values(z, 0, count, cpu) if isinstance(z, Direction) else z.values(0, count, cpu)


def _weights(name, source, slopes):
    """By the papers' equations, for the options of the grid."""
    alpha = PROBING["mix"]["alpha"] if name == "mix" else 1.0
    return [alpha * slope / (source.eps * len(slopes)) for slope in slopes]


def _slopes(cell, model, source, live, found):
    """The slopes, and the loss that a probe returns."""
    n, eps = source.scheme.samples, source.eps
    at = lambda k, scale: _loss_at(model, {x: _moved(live[x], zs[k], scale) for x, zs in found.items() if zs}).item()  # noqa: E731
    if cell.source != "fzoo":
        both = [(at(k, eps), at(k, -eps)) for k in range(n)]
        slopes = [(up - down) / 2 for up, down in both]
        best = min((1, 0, -1), key=lambda f: at(0, -f * cell.lr * slopes[0] / eps)) if cell.conservative else 1
        return tuple(best * slope for slope in slopes), statistics.fmean(x for pair in both for x in pair)
    base, losses = loss(model).item(), [at(k, eps) for k in range(n)]
    return tuple((x - base) / statistics.stdev(losses) for x in losses), base


def _loss_at(model, weights):
    return loss(lambda letters: functional_call(model, weights, (letters,)))


@torch.no_grad()
def _moved(p, z, scale):
    start = p.dequantize() if hasattr(p, "codes") else p
    return (start.float() + scale * z).to(start.dtype)
