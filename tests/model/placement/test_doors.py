"""Whatever torch, transformers and accelerate do to weights gives a placed model the same bits, or is refused."""

import copy
import itertools
from contextlib import contextmanager
from functools import partial

import accelerate
import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, parametrize, prune, vector_to_parameters

import hybridopt
from hybridopt import HybridOptError
from hybridopt.model.placement.placed import placed
from support.models import batch
from support.placed import WAYS, model_at

Q = "model.layers.1.self_attn.q_proj"
WRITTEN = "written to while it rests on disk.*unwrap"
GIVEN = "not given other memory or values.*unwrap"
TRACED = "keeps weights of 'model.layers.*without placement"
REPLACED = "was replaced since the model was placed"


class Double(nn.Module):
    def forward(self, x):
        return x * 2


class Halved(Double):
    """Torch puts half of the weight in its place."""

    def right_inverse(self, x):
        return x / 2


def q(model):
    return model.get_submodule(Q)


def zeros(model):
    return {n: torch.zeros_like(p) for n, p in model.named_parameters()}


def loss(model):
    return model(**batch(model)).loss.detach()


def values(model):
    return {n: x.clone() for n, x in model.state_dict().items()}


@contextmanager
def swapping():
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        yield
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def pruned(model):
    prune.l1_unstructured(q(model), "weight", amount=0.5)
    prune.remove(q(model), "weight")


def written(model):
    with torch.no_grad():
        q(model).weight.mul_(2)


def replaced(model):
    q(model).weight = nn.Parameter(torch.ones_like(q(model).weight), requires_grad=False)


def tied(model):
    model.model.layers[2].self_attn.q_proj.weight = q(model).weight


def swapped(model):
    layers = model.model.layers
    layers[1], layers[2] = layers[2], layers[1]


def converted(model):
    with swapping():
        model.to(torch.bfloat16)


def loaded_swapping(model):
    with swapping():
        model.load_state_dict(zeros(model))


def call_with(model):
    return torch.func.functional_call(model, zeros(model), (), batch(model)).loss


def call_with_one(model):
    own = {f"{Q}.weight": torch.ones_like(q(model).weight)}
    return torch.func.functional_call(model, own, (), batch(model)).loss


def gradient(model):
    def of(weight):
        return torch.func.functional_call(model, {f"{Q}.weight": weight}, (), batch(model)).loss

    return torch.func.grad(of)(q(model).weight.detach())


def exported(model):
    model.config.use_cache = False
    given = {"input_ids": batch(model)["input_ids"]}
    return torch.export.export(model, (), given, strict=False).module()(**given).logits


def traced(model):
    x = torch.ones(1, 4, 64, dtype=torch.bfloat16)
    return torch.jit.trace(model.model.layers[1].mlp, x)(x)


def offloaded(model):
    accelerate.cpu_offload(model, execution_device="cpu")


def kept_on_disk(model, folder):
    where = {"model.layers": "disk", "model.embed_tokens": "cpu", "model.norm": "cpu", "lm_head": "cpu"}
    where["model.rotary_emb"] = "cpu"
    accelerate.dispatch_model(model, where, main_device="cpu", offload_dir=folder, force_hooks=True)


def sharded(model):
    for layer in model.model.layers:
        fully_shard(layer)


# What is done to a model, and for weights on disk and on the host: None where all is as for a resident model, else
# what is said, at once or when the model is called next.
DOORS = {
    "to": (lambda m: m.to(torch.bfloat16), None, None),
    "type": (lambda m: m.type(torch.bfloat16), None, None),
    "to, swapping": (converted, None, None),
    "channels last": (lambda m: m.to(memory_format=torch.channels_last), None, None),
    "type, other": (lambda m: m.type(torch.float32), "cannot go from", "cannot go from"),
    "to_empty": (lambda m: m.to_empty(device="cpu"), GIVEN, GIVEN),
    "to_empty of a weight": (lambda m: q(m).to_empty(device="cpu"), GIVEN, GIVEN),
    "to_empty, meta": (lambda m: m.to_empty(device="meta"), "cannot go to 'meta'", "cannot go to 'meta'"),
    "share_memory": (lambda m: m.share_memory(), GIVEN, GIVEN),
    "_apply, in place": (lambda m: m._apply(torch.Tensor.zero_), GIVEN, GIVEN),
    "_apply, a copy": (lambda m: m._apply(torch.clone), GIVEN, GIVEN),
    "requires_grad_": (lambda m: m.requires_grad_(False), None, None),
    "load_state_dict, assign": (lambda m: m.load_state_dict(zeros(m), assign=True), "never written", None),
    "load_state_dict, assign, other": (
        lambda m: m.load_state_dict({n: x.float() for n, x in zeros(m).items()}, assign=True),
        "never written", r"assign=True\) would make .*dtype=torch.float32",
    ),
    "load_state_dict, swapping": (loaded_swapping, "would swap 'model", "would swap 'model"),
    "resize_token_embeddings": (lambda m: m.resize_token_embeddings(300, mean_resizing=False), None, None),
    "tied": (tied, "put into another module since", "put into another module since"),
    "init_weights": (lambda m: m.init_weights(), None, None),
    "written": (written, WRITTEN, None),
    "data replaced": (lambda m: setattr(q(m).weight, "data", torch.ones_like(q(m).weight)), WRITTEN, None),
    "data replaced, other": (lambda m: setattr(q(m).weight, "data", q(m).weight.float()), WRITTEN, "was replaced by"),
    "vector_to_parameters": (
        lambda m: vector_to_parameters(torch.zeros(64 * 64, dtype=torch.bfloat16), [q(m).weight]), WRITTEN, None,
    ),
    "a parameter replaced": (replaced, None, None),
    "a module replaced": (lambda m: m.set_submodule(Q, copy.deepcopy(m.model.layers[2].self_attn.q_proj)), None, None),
    "layers swapped": (swapped, None, None),
    "a layer less": (lambda m: m.model.layers.__delitem__(3), None, None),
    "pruned for good": (pruned, WRITTEN, None),
    "compiled": (lambda m: torch.compile(m, backend="eager")(**batch(m)).loss, None, None),
    "exported": (exported, None, TRACED),
    "traced": (traced, None, TRACED),
    "called with others": (call_with, None, None),
    "called with another": (call_with_one, None, None),
    "gradients of functions": (gradient, None, TRACED),
    "averaged": (lambda m: torch.optim.swa_utils.AveragedModel(m).update_parameters(m), None, None),
    "prepared by accelerate": (lambda m: accelerate.Accelerator(cpu=True).prepare(m), None, None),
    "dispatched": (lambda m: accelerate.dispatch_model(m, {"": "cpu"}, force_hooks=True), None, None),
    "offloaded": (offloaded, REPLACED, REPLACED),
}  # fmt: skip


def unparametrized(layer):
    parametrize.register_parametrization(layer, "weight", Double())
    parametrize.remove_parametrizations(layer, "weight")


# The same for what makes a weight anew whenever it is used, put on layers that are near, on their way, and at rest.
ANEW = {
    "parametrized": (lambda q: parametrize.register_parametrization(q, "weight", Double()), None, None),
    "parametrized, inverse": (lambda q: parametrize.register_parametrization(q, "weight", Halved()), WRITTEN, None),
    "parametrized no more": (unparametrized, WRITTEN, None),
    "weight_norm": (parametrizations.weight_norm, None, None),
    "weight_norm, hook": (nn.utils.weight_norm, None, None),
    "spectral_norm": (parametrizations.spectral_norm, None, None),
    "spectral_norm, hook": (nn.utils.spectral_norm, None, None),
    "pruned": (lambda q: prune.l1_unstructured(q, "weight", amount=0.5), None, None),
}  # fmt: skip


def on_layers(change, model):
    for number in (0, 1, 3):
        change(model.model.layers[number].self_attn.q_proj)


EVERY = DOORS | {name: (partial(on_layers, change), *said) for name, (change, *said) in ANEW.items()}
CELLS = [*itertools.product(EVERY, WAYS), *itertools.product(ANEW, ["relayed"])]


def seeded(door, model):
    torch.manual_seed(0)
    return door(model)


def near_one(way):
    model = model_at(way)
    loss(model)
    return model


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "way"), CELLS)
def test_a_door_changes_what_it_does_elsewhere_or_is_refused(name, way):
    door, *refused = EVERY[name]
    said, model = refused[way == "staged"], near_one(way)
    before = values(model)
    if said is None:
        resident = model_at("resident")
        expected, found = (seeded(door, each) for each in (resident, model))
        if isinstance(expected, torch.Tensor):
            assert torch.equal(found, expected)
        assert torch.equal(loss(model), loss(resident))
        placed(model).rest()
        assert torch.equal(loss(model), loss(resident))
        mine, theirs = model.state_dict(), resident.state_dict()
        assert mine.keys() == theirs.keys() and all(torch.equal(x, theirs[n]) for n, x in mine.items())
        return
    try:
        door(model)
    except HybridOptError as error:
        with pytest.raises(HybridOptError, match=said):
            raise
        assert not error.__context__
        now = values(model)
        assert now.keys() == before.keys() and all(torch.equal(x, before[n]) for n, x in now.items())
        assert torch.equal(loss(model), loss(model_at("resident")))
    else:
        for _ in range(2):  # it stays an error
            with pytest.raises(HybridOptError, match=said):
                loss(model)


@pytest.mark.parametrize("name", ["model.layers.0", "model.layers.3"])  # is on its way, and is near
def test_what_is_written_while_a_layer_is_near_is_kept(name):
    model = near_one("staged")
    assert {unit.name for unit in placed(model).streamer.near} == {"model.layers.0", "model.layers.3"}
    weight = model.get_submodule(f"{name}.mlp.up_proj").weight
    with torch.no_grad():
        weight.mul_(-3)
    wanted = weight.clone()
    resident = model_at("resident")
    resident.get_submodule(f"{name}.mlp.up_proj").weight.data.copy_(wanted)
    assert torch.equal(loss(model), loss(resident))
    placed(model).rest()
    assert torch.equal(weight, wanted) and torch.equal(loss(model), loss(resident))


def test_a_write_to_a_near_layer_whose_file_is_never_written_is_refused():
    model = near_one("relayed")
    layer = model.model.layers[3].mlp.up_proj
    with torch.no_grad():
        layer.weight.mul_(2)
    parametrize.register_parametrization(layer, "weight", Double())  # which hides it not
    with pytest.raises(HybridOptError, match=f"layers.3.mlp.up_proj.weight' was {WRITTEN}"):
        loss(model)


@pytest.mark.parametrize("way", [*WAYS, "relayed"])
def test_layers_are_parametrized_while_updates_of_training_are_outstanding(way, tmp_path):
    found = []
    for each in ("resident", way):
        how = {"paired": False} if each == "staged" else {"cache": tmp_path, "paired": False}
        model = hybridopt.wrap(model_at(each, **({} if each == "resident" else how)), policy="mezo")
        optimizer = model.hybrid.optimizer(lr=1e-2)
        for step in range(4):
            optimizer.step(lambda model=model: model(**batch(model)).loss)
            if step == 1:
                assert each == "resident" or placed(model).streamer.outstanding
                on_layers(ANEW["parametrized"][0], model)
        found.append((loss(model), values(model)))
    (one, expected), (two, there) = found
    assert torch.equal(one, two) and expected.keys() == there.keys()
    assert all(torch.equal(x, there[name]) for name, x in expected.items())


def test_what_a_state_dict_holds_lasts_and_may_be_written(way):
    model = near_one(way)
    before, held = values(model), model.state_dict()
    wanted = loss(model)
    assert all(torch.equal(x, before[n]) for n, x in held.items())
    if way == "staged":  # as data, which torch does not count
        model.state_dict()
        weight = model.model.layers[3].mlp.up_proj.weight
        weight.data.mul_(-3)
        assert not torch.equal(loss(model), wanted)
        placed(model).rest()
        assert torch.equal(weight, before["model.layers.3.mlp.up_proj.weight"] * -3)


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory):
    meeting = tmp_path_factory.mktemp("meeting") / "file"
    torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


def test_replicas_are_refused_before_weights_are_sent_and_shards_when_called(way, one_rank):
    model = near_one(way)
    model.lm_head.requires_grad_(True)
    with pytest.raises(HybridOptError, match="DistributedDataParallel computes with copies.*leave"):
        DistributedDataParallel(model)
    assert torch.equal(loss(model), loss(model_at("resident")))
    DistributedDataParallel(copy.deepcopy(model))
    sharded(model)
    with pytest.raises(HybridOptError, match=REPLACED):
        loss(model)
    model = near_one(way)
    flat = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    with pytest.raises(HybridOptError, match=REPLACED):
        flat(**batch(model))


def test_layers_that_accelerate_keeps_on_disk_are_refused_when_called(way, tmp_path):
    model = near_one(way)
    kept_on_disk(model, tmp_path)
    with pytest.raises(HybridOptError, match=f"{REPLACED}.*dispatch_model"):
        loss(model)
