"""What a plan says of placed layers is what the streamer does: bytes at rest, bytes a step, and the peak."""

import io
import json
from dataclasses import replace
from functools import cache

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

import hybridopt
from benchmarks.plan_grid.measure import step
from benchmarks.shared.peak import Peak
from hybridopt import HybridOptError, Placement
from hybridopt.cli.main import app
from hybridopt.core.budget import Budget
from hybridopt.core.card_speeds import Flops
from hybridopt.core.host import Host, Speed
from hybridopt.core.numerics import rounding
from hybridopt.core.storages import storage_id
from hybridopt.model.placement.placed import placed
from hybridopt.model.placement.placing import place_
from hybridopt.model.placement.storage.drive_endurance import WRITTEN
from hybridopt.model.placement.streaming.pending_updates import MOST
from hybridopt.model.placement.units import units
from hybridopt.planning import Estimator, Request, plan_live
from hybridopt.planning.placement.descriptions import placed_rows
from hybridopt.planning.placement.pace import pace_of
from hybridopt.planning.placement.visits import Rounds, visited
from hybridopt.planning.subject.source import subject_of
from hybridopt.planning.table import estimate_table
from hybridopt.planning.trace.fake_models import tensors_of
from hybridopt.planning.trace.tracker import Tracker, storages
from hybridopt.planning.ways.first_fit import Hunt
from hybridopt.planning.ways.offloaded import placed_ways
from hybridopt.planning.ways.search import search
from support.models import batch, tiny_llama
from support.placed import CPU, Training, adapted, folder, model_at, stand_in

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


def ready(way, scheme, slots, resident, ahead, again, path=None):
    """The model of a cell, wrapped, its optimizer, and tokens for it; what is staged is placed anew."""
    how = {"slots": slots, "resident": resident, "ahead": ahead}
    if way == "staged":
        model = unplaced(scheme, path)
        model.gradient_checkpointing_disable()
        model.disable_input_require_grads()
        if again is not None:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": again == AGAIN})
            model.enable_input_require_grads()
        stand_in(model, **how)
    elif path is None:
        model = mapped_anew(again, **how)
    else:
        model = adapted(model_at(way, scheme, path=path, **how), Training(checkpointing=again), policy="adamw")
    return model, model.hybrid.optimizer(lr=1e-4), batch(model, size=2)["input_ids"]


@cache
def mapped(again):
    model = adapted(model_at("mapped"), Training(checkpointing=again), policy="adamw")
    pieces = [piece for unit in placed(model).units for piece in unit.pieces]
    return model, {id(piece.tensor): (piece.file, piece.extent) for piece in pieces}


def mapped_anew(again, **how):
    """The model that is mapped with this checkpointing, placed in another way: its weights stay in their file."""
    model, files = mapped(again)
    if (rests := placed(model)) is not None:
        rests.end()
    found = units(model, how["resident"])
    stored = {piece.name: files[id(piece.tensor)] for unit in found for piece in unit.pieces}
    place_(model, Placement("disk", **how), CPU, stored, found)
    return model


@cache
def wrapped(scheme, path):
    return adapted(model_at("resident", scheme, path=path), policy="adamw")


def unplaced(scheme, path=None):
    if (rests := placed(wrapped(scheme, path))) is not None:
        rests.end()
    return wrapped(scheme, path)


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


@pytest.fixture(scope="module")
def wider(tmp_path_factory):
    """A model whose activations are so large that buffers of a kernel, some KiB a thread, hardly count."""
    path = tmp_path_factory.mktemp("wider")
    tiny_llama(layers=4, hidden=256).bfloat16().save_pretrained(path)
    return path, Estimator(subject_of(str(path)))


@pytest.mark.parametrize("cell", [CELLS[n] for n in (1, 2, 14, 18)], ids=str)
def test_the_peak_is_what_the_allocator_hands_out_beside_the_layers_that_are_near(cell, wider, monkeypatch):
    path, estimator = wider
    monkeypatch.setattr(rounding, "_tables", {})  # those of this model alone
    model, optimizer, tokens = ready(*cell[:-1], path=path)
    tokens = tokens.repeat(1, 6)
    step(model, optimizer, tokens, cell[-1])
    rests = placed(model)
    rests.rest()
    away = {id(x) for unit in rests.units for piece in unit.pieces for x in (piece.tensor, *piece.also)}
    states = (x for state in optimizer.state.values() for x in state.values() if isinstance(x, torch.Tensor))
    kept = [x for x in (*tensors_of(model), *states, *rounding.made_tables()) if id(x) not in away]
    before = sum({storage_id(s): s.nbytes() for x in kept for s in storages(x)}.values())
    near = watched(rests, monkeypatch)
    memory = [x for name in ("_sides", "_arenas") for x in vars(rests.streamer.backend).get(name, {}).values()]
    memory = [x.memory if hasattr(x, "memory") else x.bytes for x in memory]
    with Peak("cpu") as peak, Tracker([*tensors_of(model), *kept, *memory, tokens], "cpu") as tracker:
        step(model, optimizer, tokens, cell[-1])
    planned = estimator.estimate(asked(cell, tokens))
    kept_twice = 0.02 if cell[5] == AGAIN else 0  # what is planned is the other checkpointing: one layer's input less
    assert planned.peak_bytes == pytest.approx(before + tracker.peak + max(near), rel=0.001 + kept_twice)
    pages = max(near) if cell[0] == "mapped" else 0  # those of files are none of the allocator's
    assert planned.peak_bytes == pytest.approx(before + peak.extra + pages, rel=0.01 + kept_twice)
    live = plan_live(model, seq_len=tokens.shape[1], batch_size=tokens.shape[0], micro_batches=cell[-1])
    assert live.carried == planned.carried and live.peak_bytes == pytest.approx(
        planned.peak_bytes, rel=0.001 + kept_twice
    )


ALONE = [  # way, policy, slots, write_every, paired
    ("mapped", "mezo", 2, 2, True),
    ("mapped", "zo_conservative", 3, None, True),
    ("staged", "mezo", 3, 2, False),
]


@pytest.mark.parametrize("cell", ALONE, ids=str)
def test_weights_that_losses_train_are_fetched_once_a_step_and_written_now_and_then(cell, tmp_path):
    way, policy, slots, every, paired = cell
    how = {"slots": slots, "write_every": every, "paired": paired, "cache": tmp_path if way == "mapped" else None}
    model = hybridopt.wrap(model_at(way, **how), policy=policy).train()
    optimizer, tokens, found = model.hybrid.optimizer(lr=1e-6), batch(model, size=2)["input_ids"], placed(model)
    counts = []
    for _ in range(6):
        optimizer.step(lambda: model(input_ids=tokens, labels=tokens).loss)
        found.streamer.settle()
        counts.append(replace(found.traffic))
    request = Request(policy=policy, seq_len=tokens.shape[1], batch=2, device="cpu")
    told = estimator().carried(request.but(placement=Placement(BASES[way], **how)))
    last, before, start = counts[-1], counts[-2], counts[-1 - (every or 1)]
    assert (told.read, told.bus) == (last.read - before.read, last.moved - before.moved)
    written = last.written - start.written, last.returned - start.returned
    if every is None:  # until many steps wait
        full = sum(p.nbytes for unit in found.units for p in unit.tensors)
        assert written == (0, 0) and (told.written, told.returned) == (full // MOST, 0)
    else:
        assert tuple(every * size for size in (told.written, told.returned)) == written and any(written)


def test_evaluations_that_share_a_pass_keep_what_is_between_two_layers():
    request = Request(policy="mezo", seq_len=512, batch=2, device="cpu", placement=Placement("host", slots=2))
    together, alone = (
        estimator().estimate(request.but(placement=request.placement.but(paired=paired))) for paired in (True, False)
    )
    least = 2 * 512 * 64 * 2  # the hidden states of the other one
    assert least <= together.peak_bytes - alone.peak_bytes <= 8 * least


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
    found = [visited([10] * 8, Placement("host", slots=slots), Rounds((False,))) for slots in (2, 3, 4)]
    assert found[0].fetches == 8 and all(each.bytes == 10 * each.fetches for each in found)
    assert found[0].fetches >= found[1].fetches >= found[2].fetches >= 4  # what is used soonest stays


@pytest.mark.parametrize(("passes", "trained", "every"), [((True,), 0, 1), ((False, True), 0, 1), ((False,), 4, 3)])
@pytest.mark.parametrize(("layers", "slots", "ahead"), [(3, 2, 1), (5, 4, 2), (8, 3, 1)])
def test_micro_batches_are_counted_as_if_all_were_played(passes, trained, every, layers, slots, ahead):
    placement = Placement("host", slots=slots, ahead=ahead, write_every=every)
    sizes, written = [10 + i for i in range(layers)], (trained,) * layers if trained else ()
    played = visited(sizes, placement, Rounds(passes * 11, 0, written))
    assert visited(sizes, placement, Rounds(passes, 0, written, 11)) == played
    many = visited(sizes, placement, Rounds(passes, 0, written, 11 * 10**9))
    assert many.written == played.written and many.bytes == pytest.approx(10**9 * played.bytes, rel=0.2)


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
    model = unplaced(None)
    model.gradient_checkpointing_disable()
    assert model.hybrid.memory(seq_len=16).carried is None
    stand_in(model, slots=2)
    found = model.hybrid.memory(seq_len=16)
    assert found.carried.layers == 4 and found.request.placement.slots == 2 and "near" in str(found)


HOST = Host(2**20, Speed(1e6), Speed(1e5))


def test_seconds_and_tokens_from_which_carrying_hides():
    whole = estimator().estimate(Request(policy="adamw", lora=4, seq_len=16, placement="disk", device="cpu"))
    read, flops = whole.carried.read, Flops(1e9)
    pace = pace_of(whole, HOST, flops)
    assert (pace.bus, pace.disk, pace.carrying) == (0, read / 1e5, read / 1e5)
    operations = 2 * whole.carried.multiplied * (1 + 1 * (1 + whole.trained_parameters / whole.parameters))
    assert pace.compute == pytest.approx(16 * operations / 1e9)
    assert pace.hidden_from == pytest.approx(read / 1e5 / (operations / 1e9), abs=1)
    again = pace_of(estimator().estimate(whole.request.but(seq_len=pace.hidden_from)), HOST, flops)
    assert again.disk == pace.disk <= again.compute
    assert pace_of(whole, HOST).compute is None and pace.days is None


def test_what_is_written_wears_a_drive_out():
    told = replace(estimator().estimate(Request(policy="adamw", lora=4, seq_len=16, placement="disk", device="cpu")))
    worn = replace(told, carried=replace(told.carried, written=10**6))
    pace = pace_of(worn, HOST)
    assert pace.days == pytest.approx(WRITTEN / 10**6 * pace.carrying / 86400)
    assert any("600 TB (assumed)" in row[2] for row in placed_rows(worn, HOST))


def test_the_table_says_what_is_carried_and_whether_the_host_has_room():
    told = estimator().estimate(Request(policy="adamw", lora=4, seq_len=16, placement="host"))
    small, large = replace(HOST, memory=1000), HOST
    shown = text_of(estimate_table(told, Budget(2**40), small))
    assert "does not fit into the host's memory" in shown and "over the bus" in shown and "1 MB/s (given)" in shown
    assert "fits into" in text_of(estimate_table(told, Budget(2**40), large, Flops(1e12, "assumed: yes")))
    assert told.as_dict(Budget(2**40), small)["fits"] is False and told.as_dict(Budget(2**40), large)["fits"] is True
    assert told.as_dict(Budget(2**40), small)["missing_host_bytes"] == told.carried.host - 1000
    assert "layers on the host (slots=3)" in str(told) and "over the bus" in str(told)


def text_of(table) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(table)
    return console.file.getvalue()


ASKED = {"lora": 4, "quantization": None, "checkpointing": False, "chunk": None, "release": "accumulate"}


def searched(memory, host, **asked):
    return search(None, memory, margin=0, asked=ASKED | asked, estimator=estimator(), seq_len=16, host=host)


def test_ways_that_place_layers_are_offered_where_the_same_does_not_fit_without():
    request = Request(policy="adamw", lora=4, seq_len=16)
    whole, away = (estimator().estimate(request.but(placement=p)) for p in (None, Placement("host", slots=3)))
    unit = away.near_bytes // 3
    near, *others = searched(whole.peak_bytes, HOST)
    assert near.fits and near.way.placement is None and not any(c.way.placement for c in others)
    placed_ = searched(away.peak_bytes + unit // 2, HOST)[0]
    assert placed_.fits and placed_.way.title == "AdamW on LoRA, layers on the host"
    assert 'placement="host"' in placed_.code and "over the bus" in placed_.way.why
    with pytest.raises(HybridOptError, match="nothing fits"):
        searched(away.peak_bytes - 1, HOST)
    with pytest.raises(HybridOptError, match="missing there"):
        searched(away.peak_bytes, replace(HOST, memory=1000), placement=Placement("host"))


def test_as_many_layers_stay_as_there_is_room_for():
    request = Request(policy="adamw", lora=4, seq_len=16, placement=Placement("host", slots=2))
    peaks = [estimator().estimate(request.but(placement=request.placement.but(resident=n))).peak_bytes for n in (0, 1)]
    hunt = Hunt(estimator(), peaks[1], {}, request, host=HOST)
    assert hunt._stayed(estimator().estimate(request)).request.placement.resident == 1
    hunt.room -= 1
    assert hunt._stayed(estimator().estimate(request)).request.placement.resident == 0


def test_without_a_known_host_nothing_is_placed():
    assert placed_ways("cuda", None) == placed_ways("cuda", Host()) == ()
    assert searched(2**30, None, placement=Placement("host"))[0].way.placement.base == "host"
    bases = [[way.placement.base for way in placed_ways(device, HOST)] for device in ("cuda", "cpu")]
    assert bases == [["host"] * 3 + ["disk"] * 3, ["disk"] * 3]


def plan_cli(*arguments):
    result = CliRunner().invoke(app, ["plan", str(folder()), "--seq-len", "16", *arguments])
    if isinstance(result.exception, Exception) and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_the_command_says_bytes_seconds_and_how_they_are_known():
    how = ["--policy", "adamw", "--lora", "4", "--placement", "host", "--slots", "2", "--resident", "1"]
    result = plan_cli(*how, "--gpu", "2GiB", "--host", "1GiB", "--bus", "25GB/s", "--tflops", "50", "--json")
    told = json.loads(result.stdout)
    assert told["fits"] and told["layers_placed"] == 3 and told["host"]["bus_is"] == "given"
    assert told["bus_seconds"] == pytest.approx(told["bus_bytes_per_step"] / 25e9, abs=1e-4)
    assert told["flops"] == 50e12 and told["request"]["placement"]["resident"] == 1
    assert plan_cli(*how, "--gpu", "2GiB", "--host", "10KiB", "--json").exit_code == 1


def test_auto_is_what_load_would_choose():
    how = ["--policy", "adamw", "--lora", "4", "--placement", "auto", "--json"]
    near = json.loads(plan_cli(*how, "--gpu", "2GiB", "--host", "1GiB").stdout)
    assert near["request"]["placement"] is None
    away = json.loads(plan_cli(*how, "--gpu", "400KiB", "--host", "1GiB").stdout)
    assert away["request"]["placement"]["base"] == "host"
    with pytest.raises(HybridOptError, match="give --host"):
        plan_cli(*how, "--gpu", "2GiB")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--placement", "nvme"], "did you mean|Known"),
        (["--slots", "2"], "give --placement"),
        (["--gpu", "2GiB", "--host", "1GiB"], "--host 1GiB is about layers that rest beside the GPU"),
        (["--bus", "25GB/s", "--disk", "6GB/s"], "--bus 25GB/s --disk 6GB/s is about layers"),
        (["--placement", "host", "--slots", "1"], "slots=1"),
        (["--placement", "host", "--device", "cpu"], "--placement disk"),
        (["--placement", "host", "--bus", "25GB"], "bus='25GB' is no speed"),
        (["--placement", "host", "--host", "64"], "host='64' has no unit"),
        (["--placement", "host", "--tflops", "0"], "tflops=0"),
    ],
)
def test_what_the_command_does_not_take(arguments, words):
    with pytest.raises(HybridOptError, match=words):
        plan_cli("--policy", "adamw", "--lora", "4", *arguments)
