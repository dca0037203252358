"""Weights on disk that are written to, also under a limit of memory: refused, made elsewhere, or the process ends."""

import resource
import signal
from pathlib import Path

import pytest
import torch

import hybridopt
from hybridopt import HybridOptError
from hybridopt.core.errors import HybridOptWarning
from hybridopt.core.files import pages
from hybridopt.core.system_files import words
from hybridopt.model.placement.placed import placed
from support.children import fork, status
from support.models import batch
from support.placed import adapted, model_at, train

pytestmark = pytest.mark.filterwarnings("ignore:placement='disk'. files of weights can only be mapped")


def limited(room: int = 256 << 20) -> None:
    """Let this process have so many bytes more."""
    most = 1024 * int(words(Path("/proc/self/status"), "VmData:")[0]) + room
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def weight(model):
    return model.get_submodule("model.layers.0.mlp.up_proj").weight


def layer_state(model):
    return {n: x.clone() for n, x in model.model.layers[0].state_dict().items()}


def load_model(model):
    model.load_state_dict({n: x.clone() for n, x in model.state_dict().items()})


def load_layer(model):
    model.model.layers[0].load_state_dict(layer_state(model))


def load_linear(model):
    layer = model.model.layers[0].mlp.up_proj
    layer.load_state_dict({"weight": layer.weight.detach() + 1})


def other_optimizer(model):
    model.requires_grad_(True)  # after it was placed
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    model(**batch(model)).loss.backward()
    optimizer.step()


def other_optimizer_with_adapters(model):
    other_optimizer(adapted(model))


DOORS = {
    load_model: "load_state_dict would write",
    load_layer: "load_state_dict would write",
    load_linear: "load_state_dict would write 'weight'",
    other_optimizer: "not trained by backward passes",
    other_optimizer_with_adapters: "not trained by backward passes",
}


def refused(door) -> None:
    """Go through a door, and find the weights as they were."""
    model = model_at("mapped")
    with pytest.raises(HybridOptError, match=DOORS[door]):
        door(model)
    assert not any(placed(model).streamer.backend.written(unit) for unit in placed(model).units)
    before = weight(model_at("resident"))
    assert torch.equal(next(p for n, p in model.named_parameters() if "layers.0.mlp.up_proj" in n), before)


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
def test_what_would_write_frozen_weights_is_refused(door):
    refused(door)


def test_parts_of_a_model_are_loaded_where_they_have_a_place(tmp_path):
    model = model_at("mapped", cache=tmp_path)
    wanted = {n: x + 1 for n, x in layer_state(model).items()}
    model.model.layers[0].load_state_dict(wanted)
    model(**batch(model))
    assert all(torch.equal(x, wanted[n]) for n, x in layer_state(model).items())


def every_door():
    limited()
    for door in DOORS:
        refused(door)


def training():
    limited()
    for scheme in (None, "nf4", "int8"):
        assert len(train(adapted(model_at("mapped", scheme)), steps=2).losses) == 2


def merging_while_placed():
    limited()
    one, other = (adapted(model_at(way)).merge_and_unload() for way in ("mapped", "resident"))
    assert torch.equal(weight(one), weight(other))


def merging_afterwards():
    limited()
    one, other = (adapted(model_at(way)).hybrid.unwrap().merge_and_unload() for way in ("mapped", "resident"))
    assert torch.equal(weight(one), weight(other))
    weight(one).data.mul_(2)  # it is an ordinary tensor
    assert torch.equal(weight(one), 2 * weight(other))


def training_by_losses(folder):
    limited()
    model = hybridopt.wrap(model_at("mapped", cache=folder), policy="mezo")
    optimizer, inputs = model.hybrid.optimizer(lr=1e-3), batch(model)
    optimizer.step(lambda: model(**inputs).loss)
    before = weight(model.hybrid.unwrap()).clone()
    weight(model).data.mul_(2)
    assert torch.equal(weight(model), 2 * before) and not torch.equal(before, weight(model_at("resident")))


def no_room_to_write():
    limited()
    model = adapted(model_at("mapped"))
    limited(1)
    with pytest.warns(HybridOptWarning, match=r"from 'model.layers.0' on.*can only be read.*merge adapters before"):
        model = model.hybrid.unwrap()
    assert next(p for n, p in model.named_parameters() if "up_proj" in n)[0, 0].item()


@pytest.mark.parametrize(
    "work", [every_door, training, merging_while_placed, merging_afterwards, training_by_losses, no_room_to_write]
)
def test_where_memory_is_limited(work, tmp_path):
    model_at("mapped", "nf4"), model_at("mapped", "int8")  # the folder, and codes in its cache
    assert status(fork(lambda: work(tmp_path) if work is training_by_losses else work())) == 0


def write_by_hand():
    limited()
    weight(model_at("mapped")).data.mul_(2)


def test_a_write_by_hand_ends_the_process_where_memory_is_limited_and_is_told_else():
    assert status(fork(write_by_hand)) == -signal.SIGSEGV
    model = model_at("mapped")
    weight(model).data.mul_(2)
    with pytest.raises(HybridOptError, match="was written to while it rests on disk"):
        model(**batch(model))


def test_a_file_whose_pages_cannot_be_watched_is_unlocked_at_the_end_alone(monkeypatch):
    monkeypatch.setattr(pages, "copies", lambda: False)
    model = adapted(model_at("mapped"))
    files = {file for runs in placed(model).streamer.backend._runs.values() for file, _ in runs}
    assert files and not any(file.writable for file in files)
    weight(model.hybrid.unwrap().merge_and_unload()).data.mul_(2)
