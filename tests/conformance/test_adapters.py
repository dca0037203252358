"""Every library of adapters and every launcher, found by name, does what its contract says."""

import copy

import pytest
import torch
from torch import nn

import hybridopt
from hybridopt import HybridOptError
from hybridopt.core.contracts import Adapters, Launcher
from hybridopt.core.contracts.fulfilment import lacking
from hybridopt.core.registry import every, find, make, names
from hybridopt.model.adapters import adapted_layers, bare, library_for, library_of, lora_rank, usual_library
from hybridopt.model.quantization.replacing import quantize_
from hybridopt.model.quantization.scheme_names import named
from hybridopt.model.roles import base_name, base_names, params
from support.adapted import trained
from support.models import batch, tiny_llama

LIBRARIES = names("adapters")


def logits(model):
    with torch.no_grad():
        return model.eval()(**batch(model)).logits


@pytest.fixture(params=LIBRARIES)
def library(request):
    return make("adapters", request.param)


@pytest.fixture
def adapted(library):
    model = tiny_llama()
    return library.attach(model, library.make_config(4)), model


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_contract_is_fulfilled(name):
    assert lacking(find("adapters", name), Adapters) == [] and find("adapters", name).__doc__


def test_unknown_names_list_the_known_ones():
    with pytest.raises(HybridOptError, match="adapter='pfet'.*did you mean 'peft'"):
        find("adapters", "pfet")
    with pytest.raises(HybridOptError, match="launcher='torchrun'.*Known: accelerate"):
        find("launchers", "torchrun")


def test_a_configuration_is_its_own(library):
    config = library.make_config(4)
    assert library.takes(config) and library_for(config) == library and library.rank(config) == 4
    assert not library.takes({"r": 4}) and not library.takes(None)
    line, expression = library.code(4)
    there = {}
    exec(line, there)  # the library's own text
    assert eval(expression, there) == config
    with pytest.raises(HybridOptError, match="peft_config='lora'"):
        hybridopt.wrap(tiny_llama(), peft_config="lora")


def test_the_dry_run_tells_what_will_be_there(library):
    model, config = tiny_llama(), library.make_config(4)
    before = [(n, id(p), p.requires_grad) for n, p in model.named_parameters()]
    found, trial = library.check(model, config), library.preview(model, config)
    assert [(n, id(p), p.requires_grad) for n, p in model.named_parameters()] == before
    assert all(x.is_meta for x in (*trial.parameters(), *trial.buffers()))
    real = library.attach(model, config)
    assert found == [base_name(n) for n in adapted_layers(real)]
    assert {n: p.shape for n, p in trial.named_parameters()} == {n: p.shape for n, p in real.named_parameters()}
    assert library.kept_modules(trial) == library.kept_modules(real) == []
    assert library.check(tiny_llama(), config, scheme=named("nf4", "test")) == found


def test_nothing_is_allocated_on_an_empty_model(library):
    with torch.device("meta"):
        model = library.attach(tiny_llama().to("meta"), library.make_config(4), empty=True)
    assert all(p.is_meta for p in model.parameters())


def test_a_model_with_adapters_is_known_with_its_base(library, adapted):
    model, base = adapted
    assert library.owns(model) and library_of(model) == library and not library.is_injected(model)
    assert library.owns(base) and library.is_injected(base) and not library.owns(tiny_llama())
    assert library.base(model) is bare(model) is base and bare(tiny_llama()) is not base
    assert library.names(model) == library.active(model) == library.names(base) == library.active(base) == ["default"]
    assert library.names(tiny_llama()) == library.active(tiny_llama()) == []
    assert library.own_config(model) is not None and lora_rank(model) == 4 and lora_rank(tiny_llama()) is None
    assert adapted_layers(model) and adapted_layers(base) and not adapted_layers(tiny_llama())
    assert not any(library.is_merged(m) or library.is_off(m) for m in model.modules())
    assert not any(library.copies(m) for m in model.modules())


def test_names_of_the_base_are_those_from_before(library, adapted):
    model, _ = adapted
    plain = [n for n, _ in tiny_llama().named_parameters()]
    assert sorted(base_names(model)) == sorted(plain)
    assert all(library.base_name(n) == n == library.original_name(n) for n in plain)
    members = {m for layer in model.modules() for m in library.members(layer)}
    own = {p.name for p in params(model) if p.role == "adapter"}
    assert own == {n for n, p in model.named_parameters() if p.requires_grad}
    assert all(any(f".{m}." in n for m in members) for n in own)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_adapters_are_made_in_the_dtype_that_is_asked_for(library, dtype):
    model, config = tiny_llama(), library.make_config(4)
    library.check(model, config, dtype=dtype)
    trial, real = library.preview(model, config, dtype=dtype), library.attach(model, config, dtype=dtype)
    for adapted in (trial, real):
        assert {p.dtype for p in adapted.parameters() if p.requires_grad} == {dtype}
        assert {p.dtype for p in adapted.parameters() if not p.requires_grad} == {torch.float32}


def test_adapters_that_are_there_are_checked_and_left_alone(library, adapted):
    before = [(n, id(p), p.requires_grad, p._version) for n, p in adapted[0].named_parameters()]
    assert library.check_attached(adapted[0]) is None
    assert [(n, id(p), p.requires_grad, p._version) for n, p in adapted[0].named_parameters()] == before


def test_adapters_can_lie_in_the_base_itself(library, adapted, tmp_path):
    base = trained(adapted[1])
    library.save(base, tmp_path)
    again = library.load(tiny_llama(), tmp_path, ["default"], injected=True)
    assert type(again) is type(base) and library.is_injected(again)
    added = library.check_saved(tiny_llama(), tmp_path, ["default"], injected=True)
    assert added == {n for n, p in again.named_parameters() if p.requires_grad}
    assert torch.equal(logits(again), logits(base))
    around = library.load(tiny_llama(), tmp_path, ["default"])
    assert library.owns(around) and torch.equal(logits(around), logits(base))


def test_what_is_saved_comes_back(library, adapted, tmp_path):
    model = trained(adapted[0])
    files = library.save(model, tmp_path)
    assert sorted(files) == sorted(library.files) == sorted(p.name for p in tmp_path.iterdir())
    assert library.folder("default").parts == () and library.folder("second").parts == ("second",)
    assert library.saved_names(model, tmp_path) == {n for n, p in model.named_parameters() if p.requires_grad}
    fresh = tiny_llama()
    added = library.check_saved(fresh, tmp_path, ["default"])
    assert added == library.saved_names(model, tmp_path) and not adapted_layers(fresh)
    again = library.load(fresh, tmp_path, ["default"])
    assert library.owns(again) and torch.equal(logits(again), logits(model))
    assert not any(p.requires_grad for p in library.load(tiny_llama(), tmp_path, ["default"], False).parameters())


def test_what_cannot_be_loaded_is_refused_before(library, adapted, tmp_path):
    library.save(adapted[0], tmp_path)
    (tmp_path / library.files[0]).unlink()
    with pytest.raises(HybridOptError, match=library.files[0]):
        library.check_saved(tiny_llama(), tmp_path, ["default"])
    with pytest.raises(HybridOptError, match="active"):
        library.check_saved(tiny_llama(), tmp_path, ["default"], ["second"])


@pytest.mark.parametrize("scheme", ["nf4", "fp4", "int8"])
def test_adapters_lie_on_every_frozen_scheme(library, scheme):
    model, scheme = tiny_llama(), named(scheme, "test")
    layers = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and n != "lm_head"]
    quantize_(model, scheme, layers)
    fresh = copy.deepcopy(model)
    found = library.check(model, library.make_config(4))
    model = library.attach(model, library.make_config(4))
    assert [base_name(n) for n in adapted_layers(model)] == found == layers
    assert library.check(fresh, library.make_config(4)) == found


def test_adapters_by_rank_are_the_usual_librarys():
    assert usual_library() in every("adapters")


@pytest.mark.parametrize("name", names("launchers"))
def test_a_launcher_that_is_not_in_use_does_nothing(name):
    launcher = make("launchers", name)
    assert lacking(find("launchers", name), Launcher) == []
    assert launcher.scaling() is False and launcher.accumulating() is False
