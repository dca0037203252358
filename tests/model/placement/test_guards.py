"""What moves, casts, copies, loads or merges a placed model does it no harm."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from peft import get_peft_model

from hybridopt import HybridOptError, HybridOptWarning
from hybridopt.model.placement.guarding import added_adapters
from hybridopt.model.placement.placed import placed
from support.models import batch
from support.placed import CPU, adapted, lora, model_at, stand_in, train

Q = "model.layers.1.self_attn.q_proj"


def values(model):
    return {n: x.clone() for n, x in model.state_dict().items()}


def same(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)


@pytest.fixture(scope="module")
def plain():
    return values(model_at("resident"))


@pytest.mark.parametrize("how", ["half", "float", "meta", "of a layer", "of a weight"])
def test_moves_and_casts_are_refused_before_anything_is_changed(model, plain, how):
    moves = {
        "half": lambda: model.half(),
        "float": lambda: model.to(torch.float32),
        "meta": lambda: model.to("meta"),
        "of a layer": lambda: model.model.layers[1].float(),
        "of a weight": lambda: model.get_submodule(Q).double(),
    }
    with pytest.raises(HybridOptError, match=r"cannot go (from torch.bfloat16 to|to 'meta').*unwrap\(\)"):
        moves[how]()
    assert same(values(model), plain)


def test_moves_that_change_nothing_for_the_layers_are_let_through(model, plain):
    before = dict(model.named_parameters())
    pointers = {n: p.data_ptr() for n, p in before.items()}
    assert model.to("cpu") is model and model.bfloat16() is model
    model.model.norm.float()
    now = dict(model.named_parameters())
    assert list(now) == list(before) and all(now[n] is before[n] for n in now)
    assert {n: p.data_ptr() for n, p in now.items() if "norm" not in n}.items() <= pointers.items()


def test_adapters_put_on_by_hand_go_to_the_device_and_the_base_does_not(model, monkeypatch):
    moved = []
    monkeypatch.setattr(added_adapters, "moved_", lambda tensors, device: moved.extend(map(id, tensors)))
    weights = {id(piece.tensor) for unit in placed(model).units for piece in unit.pieces}
    theirs = get_peft_model(model, lora())
    for adapter in ("default", "second"):
        if adapter == "second":
            theirs.add_adapter(adapter, lora("q, v"))
        theirs(**batch(theirs))
        own = {id(x) for n, x in theirs.named_parameters() if adapter in n}
        assert own and own <= set(moved)
        assert weights.isdisjoint(moved)
        moved.clear()
        theirs(**batch(theirs))
        assert not moved  # nothing is new


@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_are_ordinary_models(trained, how):
    train(trained, 1)
    with pytest.warns(HybridOptWarning, match="is not placed"):
        twin = how(trained)
    assert placed(twin) is None and same(values(twin), values(trained))
    assert torch.equal(twin(**batch(twin)).loss, trained(**batch(trained)).loss)
    twin.float()
    again = copy.deepcopy(twin)
    assert next(again.parameters()).dtype == torch.float32 and again.double().dtype == torch.float64
    assert train(trained, 1).losses and placed(trained) is not None


def test_a_whole_model_is_saved_and_loaded_by_torch(model, plain):
    model(**batch(model))
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    assert same(torch.load(file), plain)


def test_state_dicts_are_loaded_into_what_can_be_written(model, way):
    model(**batch(model))
    other = {n: x + 1 for n, x in values(model).items()}
    if way == "mapped":
        before = values(model)
        with pytest.raises(HybridOptError, match=r"load_state_dict would write 'model.layers.0.*never written"):
            model.load_state_dict(other)
        assert same(values(model), before)
        model.load_state_dict({"model.norm.weight": other["model.norm.weight"]}, strict=False)
        assert torch.equal(model.model.norm.weight, other["model.norm.weight"])
    else:
        model.load_state_dict(other)
        loss = model(**batch(model)).loss
        placed(model).rest()
        assert same(values(model), other) and torch.equal(model(**batch(model)).loss, loss)


def test_gradients_of_placed_weights_are_refused_by_name(model):
    with pytest.raises(HybridOptError, match=r"layers.\d.*proj.weight' rests on .*not trained by backward passes"):
        model(**batch(model)).loss.backward()
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    model(**batch(model)).loss.backward()
    assert model.lm_head.weight.grad is not None


def test_merged_adapters_leave_a_true_model(model):
    resident = adapted(model_at("resident"))
    mine = adapted(model)
    expected, found = resident.merge_and_unload(), mine.merge_and_unload()
    assert placed(found) is None and same(values(found), values(expected))
    found.float()
    assert found.dtype == torch.float32


def test_merging_for_a_while_and_back(trained):
    resident = adapted(model_at("resident"))
    for each in (resident, trained):
        each.merge_adapter()
    assert torch.equal(trained(**batch(trained)).loss, resident(**batch(resident)).loss)
    for each in (resident, trained):
        each.unmerge_adapter()
    assert same(values(trained), values(resident))


def test_layers_without_adapters_stay_placed_when_others_are_merged(way):
    found = [adapted_from(way, 2) for way in ("resident", way)]
    resident, mine = [each.merge_and_unload() for each in found]
    assert len(placed(mine).units) == 2
    assert torch.equal(mine(**batch(mine)).loss, resident(**batch(resident)).loss)
    assert same(values(mine), values(resident))


def adapted_from(way, layers):
    torch.manual_seed(0)
    config = lora("q, v", layers_to_transform=list(range(layers)), init_lora_weights=False)
    return get_peft_model(model_at(way), config)


def test_a_second_adapter_and_switches_between_them(way):
    losses = []
    for each in ("resident", way):
        model = adapted_from(each, 4)
        model.add_adapter("second", lora("q, v", init_lora_weights=False))
        found = []
        for name in ("second", "default"):
            model.set_adapter(name)
            found.append(model(**batch(model)).loss.item())
        with model.disable_adapter():
            found.append(model(**batch(model)).loss.item())
        model.delete_adapter("second")
        losses.append([*found, model(**batch(model)).loss.item()])
    assert losses[0] == losses[1] and len(set(losses[0])) == 3


def test_one_warning_tells_what_a_word_takes(trained):
    tokens = torch.tensor([[5, 6, 7]])
    with pytest.warns(HybridOptWarning, match=r"word by word: every word takes .* s and .*[MK]iB") as told:
        trained.generate(input_ids=tokens, max_new_tokens=6, do_sample=False, eos_token_id=None)
    assert sum("word by word" in str(each.message) for each in told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", HybridOptWarning)
        trained.generate(input_ids=tokens, max_new_tokens=6, do_sample=False, eos_token_id=None)


def test_nothing_is_told_where_nothing_is_moved():
    model = model_at("resident")
    stand_in(model, slots=8)
    with warnings.catch_warnings():
        warnings.simplefilter("error", HybridOptWarning)
        model.generate(input_ids=torch.tensor([[5, 6, 7]]), max_new_tokens=6, do_sample=False, eos_token_id=None)


def test_replicas_are_refused_by_name(model):
    replica = model._replicate_for_data_parallel()
    with pytest.raises(HybridOptError, match="DataParallel computes with copies"):
        replica(**batch(model))


def test_the_end_leaves_an_ordinary_model(trained):
    train(trained, 1)
    there = placed(trained)
    before = values(trained)
    there.end()
    assert placed(trained) is None and same(values(trained), before)
    assert not any("_apply" in vars(m) or m._forward_pre_hooks for m in trained.modules())
    assert trained.float().dtype == torch.float32
    assert all(x.device == CPU for x in trained.parameters())
