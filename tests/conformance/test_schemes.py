"""Every quantization scheme, found by name, does what its contract says."""

import ast
import copy
import re
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from hybridopt import HybridOptError, wrap
from hybridopt.core.contracts import CodedWeight, Scheme
from hybridopt.core.contracts.fulfilment import lacking
from hybridopt.core.registry import every, find, names
from hybridopt.model.quantization.owners import is_frozen, logical_shape, owner, parts, scheme_of
from hybridopt.model.quantization.replacing import dequantize_, guard_, quantize_, twins_
from hybridopt.model.quantization.scales import open_scales_, scale_names, scales
from hybridopt.model.quantization.scheme_names import named, scheme_names, usual
from hybridopt.model.quantization.sizes import fingerprint, weight_bytes
from hybridopt.model.quantization.targets import check, targets
from hybridopt.planning.bytes.static import weights
from hybridopt.planning.trace.fake_models import converted_, copied, tensors_of
from support.models import tiny_gpt2, tiny_llama
from support.paths import ROOT

pytestmark = pytest.mark.slow

SCHEMES = scheme_names()
SHAPES = [(48, 128), (64, 64), (11, 6), (33, 1000), (300, 300)]
ERROR = {8: 0.02, 4: 0.2}  # of the answers, by the bits of a code


def layer_of(shape, transposed=False, **options):
    torch.manual_seed(0)
    layer = Conv1D(*shape) if transposed else nn.Linear(shape[1], shape[0], **options)
    nn.init.normal_(layer.weight)
    return layer


def described(tensors):
    return {name: (tuple(x.shape), x.dtype) for name, x in tensors.items()}


def emptied(model):
    return copy.deepcopy(model).to("meta")


@pytest.mark.parametrize("name", SCHEMES)
def test_the_name_is_that_of_the_file(name):
    assert named(name, "test").name == name == find("schemes", name)().name
    assert named(name.replace("-", "_"), "test").name == name
    assert find("schemes", name).__doc__ and lacking(find("schemes", name), Scheme) == []


@pytest.mark.parametrize("name", ["nf4", "fp4"])
def test_no_other_file_names_it(name):
    """But docstrings, and the command line with its demo, which are for people."""
    own = sys.modules[find("schemes", name).__module__].__file__
    for file in (f for folder in ("hybridopt", "integrations") for f in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(file.read_text())
        prose = {id(n.value) for n in ast.walk(tree) if isinstance(n, ast.Expr)}
        spelled = [n for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in prose]
        named = any(isinstance(n.value, str) and re.search(rf"\b{name}\b", n.value) for n in spelled)
        assert not named or str(file) == own or "cli" in file.parts, f"{file} names {name}"


def test_unknown_names_list_the_known_ones():
    with pytest.raises(HybridOptError, match=f"quantization='nf5'.*Known: {', '.join(SCHEMES)}"):
        wrap(tiny_llama(), quantization="nf5")
    with pytest.raises(HybridOptError, match="quantization=4 is not known"):
        wrap(tiny_llama(), quantization=4)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", SCHEMES)
def test_bytes_are_those_that_were_declared(name, shape):
    model, scheme = nn.Sequential(layer_of(shape, bias=False)), named(name, "test")
    quantize_(model, scheme, ["0"])
    held = {x.untyped_storage().data_ptr(): x.nbytes for x in parts(model[0].weight, model[0]).values()}
    assert sum(held.values()) == scheme.nbytes(shape) == weight_bytes(model) == weight_bytes(model[0].weight)


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", SCHEMES)
def test_the_twin_has_the_same_tensors(name, transposed, opened):
    scheme = named(name, "test")
    if opened and not scheme.scale_shapes((1, 1)):
        return
    real = nn.Sequential(layer_of((128, 48), transposed))
    twin = emptied(real)
    quantize_(real, scheme, ["0"])
    twins_(twin, scheme, ["0"])
    for model in (real, twin):
        if opened:
            open_scales_(model)
    assert described(parts(twin[0].weight, twin[0])) == described(parts(real[0].weight, real[0]))
    assert all(x.is_meta for x in parts(twin[0].weight, twin[0]).values())
    assert owner(twin[0].weight) == scheme and logical_shape(twin[0].weight) == logical_shape(real[0].weight)
    assert described({n: x for n, _, x in scales(twin)}) == described({n: x for n, _, x in scales(real)})
    marks = {k: v for k, v in vars(real).items() if k.startswith("is_")}
    assert marks == {k: v for k, v in vars(twin).items() if k.startswith("is_")}
    for (n, p), (m, q) in zip(real.named_parameters(), twin.named_parameters(), strict=True):
        assert (n, p.shape, p.dtype, p.requires_grad) == (m, q.shape, q.dtype, q.requires_grad)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_twin_leaves_its_layer_alone(name):
    layer = layer_of((64, 64))
    before = layer.weight
    twin = named(name, "test").twin(layer)
    assert layer.weight is before and type(layer) is nn.Linear and twin is not layer and not before.is_meta


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
@pytest.mark.parametrize("name", SCHEMES)
def test_a_quantized_model_says_by_what(name, build):
    model, scheme = build(), named(name, "test")
    layers = check(model, scheme, ["lm_head"])
    assert layers == targets(model, scheme, ["lm_head"]) and scheme_of(model) is None
    shapes = {n: model.get_submodule(n).weight.shape for n in layers}
    quantize_(model, scheme, layers)
    assert scheme_of(model) == name and check(model, scheme, ["lm_head"]) == []
    for n in layers:
        weight = model.get_submodule(n).weight
        assert [s for s in every("schemes") if s.owns(weight)] == [scheme]
        assert sorted(logical_shape(weight)) == sorted(shapes[n])
        assert is_frozen(weight) != scheme.trains and isinstance(weight, CodedWeight) == scheme.trains
        assert weight.requires_grad == scheme.trains
    assert owner(model.get_output_embeddings().weight) is None
    for other in (s for s in every("schemes") if s != scheme):
        with pytest.raises(HybridOptError, match=rf"quantization='{other.name}': .*already is quantized \({name}\)"):
            check(model, other)


@pytest.mark.parametrize("name", SCHEMES)
def test_a_layer_answers_nearly_as_before_and_keeps_the_rest(name):
    scheme, layer = named(name, "test"), layer_of((48, 128)).eval()
    model, x = nn.Sequential(layer), torch.randn(5, 128)
    bias, dense = layer.bias, layer(x).detach()
    quantize_(model, scheme, ["0"])
    guard_(model)
    assert (model[0] is layer) == scheme.in_place
    assert model[0].bias is bias and bias.requires_grad and not model[0].training
    assert (model(x) - dense).norm() < ERROR[scheme.bits] * dense.norm()


@pytest.mark.parametrize("name", SCHEMES)
def test_what_it_cannot_take_is_refused_by_name(name):
    scheme = named(name, "test")
    for value in (float("nan"), float("inf"), min(2 * scheme.largest, float("inf"))):
        model = nn.Sequential(layer_of((64, 64)))
        model[0].weight.data[2, 3] = torch.tensor(value)
        with pytest.raises(HybridOptError, match=f"0.weight has values from .*quantization='{name}' takes finite"):
            check(model, scheme)
    hooked = nn.Sequential(layer_of((64, 64)))
    hooked[0].register_forward_hook(lambda *_: None)
    if scheme.in_place:
        assert check(hooked, scheme) == ["0"]
    else:
        with pytest.raises(HybridOptError, match="0 has hooks"):
            check(hooked, scheme)
    with pytest.raises(HybridOptError, match=f"quantization='{name}'.*no linear layer to quantize"):
        check(nn.Sequential(nn.Conv2d(1, 1, 1)), scheme)


@pytest.mark.parametrize("name", SCHEMES)
def test_scales_open_to_what_was_declared_and_change_no_answer(name):
    scheme, model, x = named(name, "test"), nn.Sequential(layer_of((48, 128))), torch.randn(5, 128)
    quantize_(model, scheme, ["0"])
    declared = scheme.scale_shapes((48, 128))
    assert list(scales(model)) == [] and set(declared) <= scale_names()
    if not declared:
        with pytest.raises(HybridOptError, match="no quantized weights whose scales"):
            open_scales_(model)
        with pytest.raises(HybridOptError, match=f"quantization='{name}' has no scales"):
            scheme.open_scales_(model[0])
        return
    before = model(x)
    open_scales_(model)
    found = {n.removeprefix("0.weight."): s for n, _, s in scales(model)}
    assert described(found) == {n: (shape, torch.float32) for n, shape in declared.items()}
    assert all(isinstance(s, nn.Parameter) for s in found.values()) and torch.equal(model(x), before)
    open_scales_(model)
    assert all(s is found[n.removeprefix("0.weight.")] for n, _, s in scales(model))


@pytest.mark.parametrize("name", [s.name for s in every("schemes") if s.trains])
def test_trained_codes_become_floats_of_the_same_values(name):
    model = nn.Sequential(layer_of((48, 128)))
    quantize_(model, named(name, "test"), ["0"])
    old = model[0].weight
    assert old.codes.dtype == named(name, "test").codes_dtype and old.parts().keys() == parts(old).keys()
    dequantize_(model)
    assert type(model[0].weight) is nn.Parameter and torch.equal(model[0].weight, old.dequantize())
    assert model[0].weight.requires_grad and not old.requires_grad and scheme_of(model) is None


@pytest.mark.parametrize("name", [s.name for s in every("schemes") if not s.trains])
def test_the_fingerprint_sees_one_bit_of_every_part(name):
    model = nn.Sequential(layer_of((64, 64)))
    quantize_(model, named(name, "test"), ["0"])
    tensors = parts(model[0].weight, model[0]).values()
    seen = {fingerprint(model)}
    for part in tensors:
        part.data.view(-1).view(torch.uint8)[0] ^= 1
        seen.add(fingerprint(model))
    assert len(seen) == 1 + len(tensors)


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("name", SCHEMES)
def test_a_copy_without_memory_has_the_same_tensors(name, used):
    model, x = nn.Sequential(layer_of((48, 128))), torch.randn(5, 128)
    quantize_(model, named(name, "test"), ["0"])
    if used:  # some constants move in the first forward pass
        model(x)
    twin, before = copied(model), described(parts(model[0].weight, model[0]))
    assert described(parts(twin[0].weight, twin[0])) == before == described(parts(model[0].weight, model[0]))
    assert all(x.is_meta for x in tensors_of(twin)) and not any(x.is_meta for x in tensors_of(model))
    assert weights(twin) == weights(model) and weights(model).weights >= 48
    assert weights(twin).weights + weights(twin).quantization == weight_bytes(model)
    converted_(twin, lambda x: torch.zeros(x.shape, dtype=x.dtype))
    assert described(parts(twin[0].weight, twin[0])) == before
    assert not any(x.is_meta or x.any() for x in tensors_of(twin)) and owner(twin[0].weight) == named(name, "test")


def test_operations_that_take_room_are_there():
    import bitsandbytes  # noqa: F401, it registers them

    for operation in (name for s in every("schemes") for name in (*s.kernels, *s.cpu_kernels)):
        library, name, overload = operation.split(".")
        assert str(getattr(getattr(getattr(torch.ops, library), name), overload)) == operation


def test_the_usual_scheme_is_the_smallest_of_its_kind():
    assert (usual(4).name, usual(8).name, usual(8, trains=True).name) == ("nf4", "int8", "int8-trainable")


def test_each_name_imports_its_own_file_alone():
    code = """
import sys
from hybridopt.core.registry import find, names
for name in names("schemes"):
    for module in [m for m in sys.modules if ".schemes." in m]:
        del sys.modules[module]
    find("schemes", name)
    heavy = {"bitsandbytes", "transformers", "peft"} & sys.modules.keys()
    print(*(m for m in sys.modules if ".schemes." in m and ".schemes._" not in m), *heavy)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [find("schemes", name).__module__ for name in names("schemes")]
