"""The grid of combinations where gradients come from probes: each steps as asked for, or is refused."""

from itertools import combinations, product

import pytest

from support.grid.cells import (
    ADAPTERS,
    CODECS,
    FREE,
    RELEASES,
    RULES,
    SOURCES,
    SPLITS,
    STORES,
    ZEROTH,
    Cell,
    refusal,
    trained,
)
from support.grid.task import loss
from support.grid.walk import failure, walk

PROBED = tuple(name for name in SOURCES if name != "backprop")
AXES = {"full": RULES, "free": FREE, "split": SPLITS, "codec": CODECS, "store": STORES, "release": RELEASES}
AXES |= {"adapters": ADAPTERS, "source": PROBED}
REFUSED = {("int8_trainable", "LoRA"), ("int8_trainable", "LoRA + nf4")}  # by any source


@pytest.mark.parametrize("full", RULES)
@pytest.mark.parametrize("source", PROBED)
def test_every_cell_does_what_was_asked_or_is_refused(source, full):
    cells = [c for c in ZEROTH if (c.source, c.full) == (source, full)]
    failures = [text for text in map(failure, cells) if text]
    assert len(cells) == len(SPLITS) and not failures, "\n".join(failures)


@pytest.mark.parametrize("axes", [*combinations(AXES, 2), ("source", "full", "split")])
def test_all_values_meet(axes):
    met = {tuple(getattr(c, axis) for axis in axes) for c in ZEROTH}
    wanted = set(product(*(AXES[axis] for axis in axes)))
    assert met == (wanted - REFUSED if axes == ("store", "adapters") else wanted)


def test_conservative_steps_are_of_sgd_alone():
    for full, free, split in product(("sgd", "adamw"), ("sgd", "signsgd"), SPLITS):
        cell = Cell(full, free, split, source="spsa", conservative=True)
        fits = (full == "sgd" or split == "empty") and (free == "sgd" or split == "whole")
        assert failure(cell) is None if fits else "conservative=True" in refusal(cell), str(cell)


def test_zeroth_order_parts_need_no_gradients_and_give_back_what_they_froze():
    with trained(Cell(source="spsa")) as (model, _, optimizer):
        assert optimizer.probes_needed and not any(p.requires_grad for p in model.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_what_is_wrong_is_seen():
    """The walk is worth something: it finds a step along other directions, and one that is too long."""
    for seen in ("slopes", "directions"):
        with trained(Cell(source="spsa", store="dense")) as (model, plan, optimizer):
            if seen == "slopes":
                optimizer.probe(lambda: 2 * loss(model))
            else:
                optimizer.param_groups[0]["seed"] = 1
            with pytest.raises(AssertionError, match="not close|is off by"):
                walk(Cell(source="spsa", store="dense"), model, plan, optimizer)
