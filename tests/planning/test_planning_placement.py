"""What a plan says of placed layers is what the streamer does: bytes at rest, bytes a step, and the peak."""

from functools import cache

import pytest
import torch

from benchmarks.plan_grid.measure import step
from hybridopt import HybridOptError, Placement
from hybridopt.model.placement.placing import placed
from hybridopt.planning import Estimator, Request, plan_live
from hybridopt.planning.placement.visits import Rounds, visited
from hybridopt.planning.subject.source import subject_of
from hybridopt.planning.trace.fake_models import tensors_of
from hybridopt.planning.trace.tracker import Tracker, storages
from support.models import batch
from support.placed import Training, adapted, folder, model_at, stand_in

BASES = {"mapped": "disk", "staged": "host"}
AGAIN = "reentrant"
CELLS = [  # way, scheme, slots, resident, ahead, checkpointing, micro-batches
    ("mapped", None, 2, 0, 1, None, 1),
    ("mapped", None, 2, 1, 1, AGAIN, 1),
    ("mapped", None, 3, 0, 1, "non-reentrant", 2),
    ("mapped", None, 3, 0, 2, None, 3),
    ("mapped", None, 3, 1, 0, AGAIN, 2),
    ("mapped", None, 4, 0, 1, None, 1),
    ("mapped", None, 2, 2, 0, "non-reentrant", 3),
    ("staged", None, 2, 0, 1, None, 2),
    ("staged", None, 2, 0, 0, AGAIN, 1),
    ("staged", None, 3, 0, 2, "non-reentrant", 1),
    ("staged", None, 3, 1, 1, None, 1),
    ("staged", None, 2, 3, 1, None, 1),
    ("staged", "nf4", 2, 0, 1, AGAIN, 1),
    ("staged", "nf4", 3, 0, 1, None, 2),
    ("staged", "nf4", 2, 1, 0, "non-reentrant", 2),
    ("staged", "nf4", 4, 0, 3, None, 1),
    ("staged", "fp4", 2, 2, 1, AGAIN, 1),
    ("staged", "int8", 2, 0, 1, AGAIN, 2),
    ("staged", "int8", 3, 0, 1, None, 1),
    ("staged", "int8", 2, 1, 1, None, 3),
]


@cache
def estimator() -> Estimator:
    return Estimator(subject_of(str(folder())))


def placement(way, slots, resident, ahead) -> Placement:
    return Placement(BASES[way], slots=slots, resident=resident, ahead=ahead)


def ready(way, scheme, slots, resident, ahead, again):
    """The model of a cell, wrapped, its optimizer, and tokens for it."""
    how = {"slots": slots, "resident": resident, "ahead": ahead}
    model = adapted(model_at(way, scheme, **how), Training(checkpointing=again), policy="adamw")
    return model, model.hybrid.optimizer(lr=1e-4), batch(model, size=2)["input_ids"]


def asked(cell, tokens) -> Request:
    way, scheme, slots, resident, ahead, again, passes = cell
    sizes = {"batch": tokens.shape[0], "seq_len": tokens.shape[1], "micro_batches": passes}
    how = {"lora": 4, "quantization": scheme, "checkpointing": again is not None, "device": "cpu"}
    return Request(policy="adamw", placement=placement(way, slots, resident, ahead), **how, **sizes)


def watched(rests, monkeypatch) -> list[int]:
    """Bytes of the device's storages, or of pages, whenever a unit is fetched."""
    backend, seen = rests.streamer.backend, []

    def open_(unit):
        type(backend).open(backend, unit)
        sides = getattr(backend, "_sides", None)
        pages = [other.nbytes for other in {unit, *rests.streamer.near}]
        seen.append(sum(pages) if sides is None else sum(s.memory.untyped_storage().nbytes() for s in sides.values()))

    monkeypatch.setattr(backend, "open", open_)
    return seen


@pytest.mark.parametrize("cell", CELLS, ids=str)
def test_bytes_are_those_that_the_streamer_counts(cell):
    model, optimizer, tokens = ready(*cell[:-1])
    found, counts = placed(model), []
    for _ in range(3):
        step(model, optimizer, tokens, cell[-1])
        found.streamer.settle()
        counts.append((found.traffic.read, found.traffic.moved, found.traffic.fetches))
    told = estimator().carried(asked(cell, tokens))
    last = tuple(after - before for after, before in zip(counts[-1], counts[-2], strict=True))
    assert (told.read, told.bus, told.fetches) == last
    assert told.host == getattr(found.streamer.backend, "held", 0)
    assert told.disk == (sum(unit.nbytes for unit in found.units) if cell[0] == "mapped" else 0)
    assert told.layers == len(found.units) and told.written == 0


@pytest.mark.parametrize("cell", [CELLS[1], CELLS[10], CELLS[12], CELLS[18]], ids=str)
def test_the_peak_is_what_operations_make_beside_the_layers_that_are_near(cell, monkeypatch):
    model, optimizer, tokens = ready(*cell[:-1])
    step(model, optimizer, tokens, cell[-1])
    rests = placed(model)
    rests.rest()
    away = {id(x) for unit in rests.units for piece in unit.pieces for x in (piece.tensor, *piece.also)}
    states = (x for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor))
    kept = [x for x in (*tensors_of(model), *states) if id(x) not in away]
    before = sum({s._cdata: s.nbytes() for x in kept for s in storages(x)}.values())
    near = watched(rests, monkeypatch)
    memory = [x for name in ("_sides", "_arenas") for x in vars(rests.streamer.backend).get(name, {}).values()]
    memory = [x.memory if hasattr(x, "memory") else x.bytes for x in memory]
    with Tracker([*tensors_of(model), *kept, *memory, tokens], "cpu") as tracker:
        step(model, optimizer, tokens, cell[-1])
    planned = estimator().estimate(asked(cell, tokens))
    assert planned.peak_bytes == pytest.approx(before + tracker.peak + max(near), rel=0.01)
    live = plan_live(model, seq_len=tokens.shape[1], batch_size=tokens.shape[0], micro_batches=cell[-1])
    assert live.carried == planned.carried and live.peak_bytes == pytest.approx(planned.peak_bytes, rel=0.01)


def test_layers_of_different_sizes_are_near_at_different_moments():
    found = visited([1, 10, 100, 1000], Placement("host", slots=2), Rounds((True,)))
    assert found.near["forward", 3] == 1100 and found.most == 1100
    assert found.near["backward", 2] == 110 and found.near["backward", 1] == 11  # the layer before is on its way


def test_a_backward_pass_ends_at_the_first_layer_that_is_trained():
    sizes, placement = [10] * 8, Placement("host", slots=2)
    whole, half = (visited(sizes, placement, Rounds((True,), first)) for first in (0, 4))
    assert whole.fetches == 2 * 8 - 4 and half.fetches == 8 - 2 + 4 - 2 + 2
    assert ("backward", 3) in whole.near and ("backward", 3) not in half.near


def test_losses_alone_pass_through_the_layers_once():
    found = visited([10] * 8, Placement("host", slots=2), Rounds((False,)))
    assert (found.bytes, found.fetches) == (80, 8)
    found = visited([10] * 8, Placement("host", slots=3), Rounds((False,)))
    assert (found.bytes, found.fetches) == (70, 7)  # one of three stays, most of the time


def test_a_gpu_leaves_the_embedding_and_all_but_its_slots_on_the_host():
    request = Request(policy="adamw", lora=4, seq_len=16, placement="host")
    placed_, whole = (estimator().estimate(request.but(placement=p)) for p in ("host", None))
    unit = placed_.near_bytes // 3
    embedding = 96 * 64 * 2
    assert whole.weights_bytes - placed_.weights_bytes == 4 * unit + embedding
    assert placed_.peak_bytes == whole.peak_bytes - unit - embedding
    assert placed_.carried.host == 4 * unit + embedding and whole.carried is None


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"policy": "adamw"}, "trained by backward passes.*LoRA"),
        ({"lora": 4, "placement": Placement("host", resident=4)}, "resident=4 leaves no layer"),
        ({"lora": 4, "placement": "nvme"}, "auto, device, disk, host"),
        ({"lora": 4, "placement": 3}, "placement=3"),
    ],
)
def test_what_cannot_be_placed_is_refused(how, words):
    with pytest.raises(HybridOptError, match=words):
        estimator().estimate(Request(**{"placement": "host", "seq_len": 16} | how))


def test_a_request_with_a_placement_is_plain_data():
    told = Request(lora=4, placement=Placement("disk", slots=2)).as_dict()["placement"]
    assert told["base"] == "disk" and told["slots"] == 2
    assert Request(placement="device").as_dict()["placement"] is None


def test_a_stand_in_is_planned_as_it_is():
    model = adapted(model_at("resident"), policy="adamw")
    assert model.hybrid.memory(seq_len=16).carried is None
    stand_in(model, slots=2)
    found = model.hybrid.memory(seq_len=16)
    assert found.carried.layers == 4 and found.request.placement.slots == 2 and "near" in str(found)
