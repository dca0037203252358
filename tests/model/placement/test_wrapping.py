"""`wrap` and the strategy of models whose layers rest elsewhere."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model

import hybridopt
from hybridopt import HybridOptError, HybridOptWarning, Placement
from hybridopt.model.placement.backends.staged import Staged
from hybridopt.model.placement.placed import placed
from support.models import batch, tiny_gpt2, tiny_llama, tiny_resnet
from support.placed import WAYS, Training, adapted, differences, folder, lora, model_at, run, train


@pytest.fixture
def gpu(monkeypatch):
    """The CPU stands in for a GPU."""
    monkeypatch.setattr(Staged, "serves", staticmethod(lambda base, device: base == "host"))


@pytest.fixture(scope="module")
def resident():
    """Trainings that are not placed, by scheme."""
    return {scheme: run("resident", Training(scheme), steps=2) for scheme in (None, "nf4")}


def same_base(model, other):
    mine, theirs = model.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[n], theirs[n]) for n in mine)


@pytest.mark.parametrize("scheme", [None, "nf4"])
def test_a_model_in_memory_is_placed_on_the_host(gpu, resident, scheme):
    model = adapted(model_at("resident"), quantization=scheme, placement=Placement("host", slots=2))
    assert not differences(train(model, 2), resident[scheme])
    there = placed(model)
    assert len(there.units) == 4 and len(there.streamer.near) <= 2 and there.traffic.moved > 0


@pytest.mark.parametrize("scheme", [None, "nf4"])
def test_a_model_in_memory_is_placed_on_disk_in_a_cache(resident, scheme, tmp_path):
    for _ in range(2):  # the second time it is there
        where = Placement("disk", slots=2, cache=tmp_path)
        model = adapted(model_at("resident"), quantization=scheme, placement=where)
        assert not differences(train(model, 2), resident[scheme])
        assert placed(model).traffic.read > 0
        files = {f: f.stat().st_mtime_ns for f in tmp_path.rglob("*.weights")}
        assert len(files) == 4
        model.hybrid.unwrap()
    other = tiny_llama(seed=7, layers=4).to(torch.bfloat16)
    hybridopt.wrap(other, peft_config=lora(), placement=Placement("disk", cache=tmp_path))
    assert all(f.stat().st_mtime_ns == time for f, time in files.items())
    assert len(list(tmp_path.rglob("*.weights"))) == 8


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"placement": "nvme"}, "placement='nvme'.*auto, device, disk, host"),
        ({"placement": "host"}, "host.*is not known for device='cpu'"),
        ({"placement": "disk"}, "writes the layers.*cache=FOLDER"),
        ({"placement": Placement("disk", resident=5, cache="x")}, "resident=5.*has 4 layers"),
        ({"placement": 3}, "placement=3 is not known"),
    ],
)
def test_bad_placements_are_refused_before_anything_is_changed(given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = tiny_llama(layers=4).to(torch.bfloat16)
    before = copy.deepcopy(model)
    with pytest.raises(HybridOptError, match=said):
        hybridopt.wrap(model, peft_config=lora(), **given)
    assert same_base(model, before) and "hybrid" not in vars(model) and placed(model) is None
    assert not list(tmp_path.iterdir())


def test_models_without_layers_and_containers_are_refused(gpu):
    with pytest.raises(HybridOptError, match="ResNet has no list of layers"):
        hybridopt.wrap(tiny_resnet(), placement="host")
    with pytest.raises(HybridOptError, match="DataParallel"):
        hybridopt.wrap(torch.nn.DataParallel(tiny_llama()), placement="host")


def test_everything_fits_and_nothing_is_placed():
    model = hybridopt.wrap(tiny_llama(), peft_config=lora(), placement="auto")
    assert placed(model) is None


def test_placed_models_stay_as_they_are(model):
    before = copy.deepcopy(model.state_dict())
    there = placed(model)
    with pytest.raises(HybridOptError, match="is placed already.*leave placement out"):
        hybridopt.wrap(model, peft_config=lora(), placement="host")
    with pytest.raises(HybridOptError, match=r"quantization='nf4'.*hybridopt.load\(..., quantization='nf4'"):
        hybridopt.wrap(model, peft_config=lora(), quantization="nf4")
    with pytest.raises(HybridOptError, match="these adapters begin by changing.*init_lora_weights=True"):
        hybridopt.wrap(model, peft_config=lora(init_lora_weights="pissa"))
    wrapped = hybridopt.wrap(model, peft_config=lora())
    assert placed(wrapped) is there
    now = model.state_dict()
    assert all(torch.equal(x, now[n.replace("_proj.", "_proj.base_layer.")]) for n, x in before.items())


def test_adapters_put_on_by_hand_train_alike(way, resident):
    found = []
    for each in ("resident", way):
        torch.manual_seed(1)
        model = get_peft_model(hybridopt.wrap(model_at(each)), lora(init_lora_weights=False))
        found.append(train(hybridopt.wrap(model).train(), 2))
    assert not differences(*found)


def test_weights_that_rest_elsewhere_are_not_trained_by_backward_passes(model):
    hybridopt.wrap(model)
    with pytest.raises(HybridOptError, match=r"'model.layers.0.*not trained by.*LoraConfig.*policy='mezo'"):
        model.hybrid.optimizer()
    assert all(p.requires_grad for p in model.parameters())
    for name, p in model.named_parameters():
        p.requires_grad_("norm" in name)
    optimizer = model.hybrid.optimizer(lr=1e-2)
    norm = model.model.layers[0].input_layernorm.weight.clone()
    model(**batch(model)).loss.backward()
    optimizer.step()
    assert not torch.equal(model.model.layers[0].input_layernorm.weight, norm)


def test_weights_that_were_replaced_are_told(model):
    wrapped = hybridopt.wrap(model, peft_config=lora())
    layer = model.model.layers[1].self_attn.q_proj.base_layer
    layer.weight = torch.nn.Parameter(layer.weight.detach().clone(), False)
    with pytest.raises(HybridOptError, match=r"layers.1.self_attn.q_proj.weight' was replaced.*FSDP, DeepSpeed"):
        wrapped.hybrid.optimizer()


def test_unwrap_gives_an_ordinary_model_back(way):
    model = adapted(model_at(way))
    train(model, 1)
    expected = model(**batch(model)).loss
    plain = model.hybrid.unwrap()
    assert plain is model and placed(model) is None and not hasattr(model, "hybrid")
    assert torch.equal(model(**batch(model)).loss, expected)
    assert not any("_apply" in vars(m) or "merge" in vars(m) or m._forward_pre_hooks for m in model.modules())
    q = model.base_model.model.model.layers[1].self_attn.q_proj.base_layer.weight
    with torch.no_grad():
        q.add_(1)  # it may be written
    assert model.float().dtype == torch.float32
    assert same_base(model_at("resident"), model_at("mapped"))  # and the folder was not


@pytest.mark.parametrize("way", WAYS[:1])
def test_saved_adapters_come_back_on_a_placed_base(way, tmp_path):
    model = adapted(model_at(way))
    train(model, 2)
    model.hybrid.save_pretrained(tmp_path)
    resident = hybridopt.from_pretrained(model_at("resident"), tmp_path)
    again = hybridopt.from_pretrained(model_at(way), tmp_path)
    assert placed(again) is not None
    assert not differences(train(again.train(), 2), train(resident.train(), 2))


def test_folders_with_changed_weights_come_onto_a_placed_base(way, tmp_path):
    model = hybridopt.wrap(model_at("resident"))
    train(model, 1)
    model.hybrid.save_pretrained(tmp_path / "delta")
    base = model_at(way)
    if way == "mapped":
        with pytest.raises(HybridOptError, match=r"'model.layers.\d.*in a file that is never written.*cache="):
            hybridopt.from_pretrained(base, tmp_path / "delta")
        assert same_base(base, model_at("resident"))
        base = model_at(way, cache=tmp_path)
    assert same_base(hybridopt.from_pretrained(base, tmp_path / "delta", policy="mezo"), model)


def test_auto_takes_adapters():
    model = hybridopt.wrap(model_at("mapped"), policy="auto", memory="2GiB", seq_len=16)
    assert placed(model) is not None and model.hybrid.choice.request.lora
    assert len(train(model.train(), 1).losses) == 1


def test_two_models_on_one_folder_and_two_optimizers():
    one, two = (adapted(model_at("mapped")) for _ in range(2))
    first, second = train(one, 2), train(two, 2)
    assert not differences(first, second)
    assert not differences(train(one, 1), train(two, 1))


@pytest.mark.parametrize("way", WAYS)
def test_tied_embeddings_stay_where_they_are(way):
    path = folder(tie=True)
    model = adapted(model_at(way, path=path))
    expected = train(adapted(model_at("resident", path=path)), 2)
    assert not differences(train(model, 2), expected)
    kept = {id(piece.tensor) for unit in placed(model).units for piece in unit.pieces}
    assert id(model.get_input_embeddings().weight) not in kept


def test_layers_of_another_model_are_found(gpu):
    found = [tiny_gpt2(layers=3), tiny_gpt2(layers=3)]
    config = LoraConfig(r=2, target_modules=["c_attn"], fan_in_fan_out=True, init_lora_weights=False)
    runs = []
    for model, placement in zip(found, (None, "host"), strict=True):
        torch.manual_seed(0)
        runs.append(train(hybridopt.wrap(model, peft_config=config, placement=placement), 2))
    assert not differences(*runs)
    with pytest.warns(HybridOptWarning, match="not placed"):
        copy.deepcopy(found[1])
