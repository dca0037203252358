"""Layers on the host for a device that computes, with the CPU in the place of that device."""

import gc
import warnings

import pytest
import torch
from torch import nn

import hybridopt
from hybridopt.core.contracts import PlacedUnit, Traffic
from hybridopt.core.errors import HybridOptError, HybridOptWarning
from hybridopt.model.placement import placing
from hybridopt.model.placement.placed import placed
from hybridopt.model.placement.placement import Placement
from hybridopt.model.placement.units import units
from support.lazy_lane import Lazy, LazyLane, Poisoned
from support.models import batch, tiny_gpt2, tiny_llama, tiny_moe
from support.placed import CPU, adapted, all_at_rest, differences, folder, model_at, stand_in, train
from support.pooled_backend import Pooled
from support.quantized import quantized

SCHEMES = (None, "nf4", "fp4", "int8")
STEPS = 2


def trained(scheme, backend=None):
    model = model_at("resident", scheme)
    if backend is not None:
        stand_in(model, backend=backend)
    return train(adapted(model), STEPS)


@pytest.fixture(scope="module", params=SCHEMES, ids=str)
def resident(request):
    return request.param, trained(request.param)


def test_it_is_right_to_the_last_bit_however_late_copies_are(resident):
    scheme, expected = resident
    assert differences(trained(scheme, Poisoned if scheme == "nf4" else Lazy), expected) == []


def test_buffers_that_take_turns_are_told_by_their_gradients(resident):
    scheme, expected = resident
    found = trained(scheme, Pooled)
    wrong = differences(found, expected)
    assert found.losses[0] == expected.losses[0]
    assert any(name.startswith("gradients") for name in wrong) == (scheme != "int8")


@pytest.mark.parametrize(
    ("make", "scheme"), [(tiny_gpt2, None), (tiny_gpt2, "nf4"), (tiny_moe, "nf4"), (tiny_moe, "int8")]
)
def test_transposed_layers_and_packs_of_experts_are_right_as_well(make, scheme):
    def losses(place):
        model = make(layers=3) if scheme is None else quantized(make(layers=3), scheme)
        model.requires_grad_(False)
        if place:
            found = stand_in(model, backend=Lazy)
            assert found.units[0].nbytes > 10_000
        model.get_input_embeddings().register_forward_hook(lambda m, args, out: out.requires_grad_())
        made = []
        model.get_input_embeddings().register_forward_hook(lambda m, args, out: made.append(out))
        loss = model(**batch(model, 2)).loss
        return loss, torch.autograd.grad(loss, made)[0]

    assert all(map(torch.equal, losses(True), losses(False)))


def test_nothing_is_near_at_rest_and_no_more_than_the_slots_in_use():
    model = model_at("resident", "nf4")
    found = stand_in(model, slots=2)
    sides = [found.streamer.backend._sides[unit] for unit in found.units]

    def near():
        return [side.memory.untyped_storage().nbytes() for side in sides]

    assert near() == [0] * 4
    whole, most = sides[0].memory.nbytes, []
    assert 0 <= whole - found.units[0].nbytes < 256 * len(found.units[0].pieces)
    for unit in found.units:
        unit.module.register_forward_hook(lambda *_: most.append(sum(near())))
    train(adapted(model), 2)
    assert max(most) == 2 * whole
    found.rest()
    assert near() == [0] * 4 and all_at_rest(model)
    assert found.traffic.moved == found.traffic.fetches * whole


def test_parameters_stay_the_same_objects_with_the_same_values():
    model = model_at("resident")
    before = {name: (id(p), p.detach().clone()) for name, p in model.named_parameters()}
    stand_in(model)
    trained_ = train(adapted(model), 1).model
    placed(trained_).rest()
    after = {n.replace(".base_layer", ""): p for n, p in model.named_parameters() if "lora" not in n}
    assert {name: id(p) for name, p in after.items()} == {name: key for name, (key, _) in before.items()}
    assert all(torch.equal(p, before[name][1]) for name, p in after.items())


def test_codes_of_8_bits_and_their_scales_move_together():
    model = model_at("resident", "int8")
    found = stand_in(model, backend=Lazy)
    layer = found.units[0].module.mlp.up_proj
    codes, scales = layer.weight.CB, layer.weight.SCB
    values = codes.clone(), scales.clone()
    model.requires_grad_(False).train()(**batch(model))
    found.rest()
    assert layer.state.CB is codes and layer.state.SCB is scales  # moved from the weight by the forward pass
    assert codes.data_ptr() == layer.weight.data_ptr()
    assert torch.equal(layer.weight, values[0]) and torch.equal(scales, values[1])
    pinned = [(start, start + size) for start, size in found.streamer.backend.lane.locked.items()]
    assert all(any(a <= x.data_ptr() < b for a, b in pinned) for x in (codes, scales))


@pytest.mark.parametrize(("make", "scheme", "count"), [(tiny_llama, "nf4", 7 * 3), (tiny_llama, "int8", 0)])
def test_tables_and_scalars_go_to_the_device_for_good(monkeypatch, make, scheme, count):
    moved = []
    monkeypatch.setattr(placing, "moved_", lambda tensors, device: moved.append((list(tensors), device)))
    found = stand_in(quantized(make(), scheme))
    assert [(len(tensors), device) for tensors, device in moved] == [(count, CPU)] * 2
    own = {id(x) for unit in found.units for piece in unit.pieces for x in (piece.tensor, *piece.also)}
    assert not own & {id(x) for tensors, _ in moved for x in tensors}


def test_views_that_were_saved_see_the_bytes_that_are_fetched_again():
    layer = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
    backend, unit = carried(layer)
    bring(backend, unit)
    view = layer[0].weight.t()
    backend.rest(unit)
    bring(backend, unit)
    assert torch.equal(view, layer[0].weight.t())


def test_a_unit_that_is_dropped_before_it_is_used_is_waited_for():
    backend, unit = carried(nn.ModuleList(nn.Linear(8, 8) for _ in range(2)))
    backend.open(unit)
    backend.fetch(unit)
    backend.rest(unit)
    assert backend.lane.said == ["now", "copy", "wait", "leave"] and not backend.lane.waiting
    backend.open(unit)
    backend.rest(unit)  # a fetch that has failed: there is no copy to wait for
    assert backend.lane.said[4:] == ["now", "leave"]


def test_an_interrupted_copy_is_waited_for():
    backend, unit = carried(nn.ModuleList(nn.Linear(8, 8) for _ in range(2)))
    copy = backend.lane.copy

    def interrupted(pairs, after):
        copy(pairs, after)
        raise KeyboardInterrupt

    backend.lane.copy = interrupted
    backend.open(unit)
    with pytest.raises(KeyboardInterrupt):
        backend.fetch(unit)
    backend.rest(unit)
    assert not backend.lane.waiting and backend._sides[unit].memory.untyped_storage().nbytes() == 0
    backend.rest(unit)  # once more, if need be


def test_each_order_of_calls_keeps_the_rules_of_the_lane():
    model = model_at("resident")
    found = stand_in(model, backend=Lazy)
    train(adapted(model), STEPS)
    found.rest()
    said = found.streamer.backend.lane.said
    assert said.count("now") == said.count("copy") == said.count("wait") == said.count("leave")
    assert not found.streamer.backend.lane.waiting


def test_evaluation_in_inference_mode_is_right():
    model = model_at("resident", "nf4").eval()
    with torch.inference_mode():
        expected = model(**batch(model)).logits
        stand_in(model, backend=Lazy)
        assert torch.equal(model(**batch(model)).logits, expected)
        assert torch.equal(model(**batch(model)).logits, expected)


def test_what_is_given_up_stays_where_it_rests_and_takes_nothing_on_the_device():
    model = model_at("resident")
    found = stand_in(model, backend=Lazy)
    lane = found.streamer.backend.lane
    found.end()
    assert not found.streamer.backend._sides and len(lane.locked) == 4
    assert torch.isfinite(model(**batch(model)).loss)
    del model, found
    gc.collect()
    assert not lane.locked  # the page locks went with the last tensor


def test_no_copy_goes_on_when_the_model_is_gone():
    """Into memory that others are given by then."""
    model = model_at("resident")
    found = stand_in(model, backend=Lazy, ahead=1)
    model(**batch(model))
    lane = found.streamer.backend.lane
    assert lane.waiting and all(copy.pairs[0][0].untyped_storage().nbytes() for copy in lane.waiting)
    del model, found
    gc.collect()
    assert not lane.waiting and not lane.locked


@pytest.mark.parametrize("base", ["host", "disk"])
def test_gpus_of_apple_are_refused(base):
    with pytest.raises(HybridOptError, match="is not known for device='mps'"):
        placing.backend_for(Placement(base), torch.device("mps"))


def test_a_refused_page_lock_is_told_with_its_price():
    layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))
    backend = Lazy(CPU, Traffic(), Placement())
    backend.lane = LazyLane(refuses=True)
    with pytest.warns(HybridOptWarning, match="6.6 times slower"):
        backend.adopt(unit_of(layers))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend.adopt(unit_of(layers))  # it was told
    assert (backend.held, backend.pinned) == (2 * 4096, 0)
    backend = Lazy(CPU, Traffic(), Placement())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend.adopt(unit_of(layers))
    assert backend.pinned == backend.held == 4096


def test_the_public_face_finds_the_backend_for_a_gpu(monkeypatch):
    monkeypatch.setattr(Lazy.__mro__[1], "serves", staticmethod(lambda base, device: base == "host"))
    model = hybridopt.load(folder(), placement="host")
    assert type(placed(model).streamer.backend).__name__ == "Staged"


def unit_of(layers) -> PlacedUnit:
    return units(nn.ModuleDict({"layers": layers}))[0]


def carried(layers):
    backend, unit = Lazy(CPU, Traffic(), Placement()), unit_of(layers)
    backend.adopt(unit)
    return backend, unit


def bring(backend, unit):
    backend.open(unit)
    backend.fetch(unit)
    backend.bind(unit)


def test_what_somebody_writes_beside_outstanding_updates_is_refused():
    backend, unit = carried(nn.ModuleList([nn.Linear(4, 4, bias=False), nn.Linear(4, 4)]))
    weight = unit.pieces[0].tensor
    bring(backend, unit)
    backend.write(unit, unit.pieces)
    weight.data.mul_(2)
    backend.changed(unit)
    with torch.no_grad():
        weight.mul_(3)
    with pytest.raises(HybridOptError, match=r"updates of training are outstanding.*state_dict\(\) first"):
        backend.rest(unit)
    backend.keep(unit, unit.pieces)
    backend.rest(unit)  # what was kept has both
