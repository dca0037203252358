"""Layers whose weight other modules read stay as they are, and that is said; all others are quantized."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import LlamaForCausalLM

import hybridopt
from hybridopt import HybridOptError, HybridOptWarning
from hybridopt.model.quantization.read_elsewhere import read_elsewhere
from support.models import tiny_bert, tiny_gpt2, tiny_llama, tiny_moe, tiny_vit

SCHEMES = ("nf4", "fp4", "int8")


class Reading(nn.Module):
    """What each subclass reads lies in `read`; `other` is called."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.read, self.other = nn.Linear(64, 64), nn.Linear(64, 64)
        self.several = nn.ModuleList([nn.Linear(64, 64)])
        self.flag, self.size = False, 1


class Direct(Reading):
    def forward(self, x):
        return F.linear(self.other(x), self.read.weight)


class ByMethod(Reading):
    def forward(self, x):
        return self.fused(self.other(x))

    def fused(self, x):
        return torch.cat([self.read.weight, self.read.weight], 0) @ x.mT


def fused(module, x):
    return x @ module.read.weight


class ByFunction(Reading):
    def forward(self, x):
        return fused(self, self.other(x))


class ByVariable(Reading):
    def forward(self, x):
        layer = self.read
        return F.linear(self.other(x), layer.weight)


class InLoop(Reading):
    def forward(self, x):
        for layer in self.several:
            x = F.linear(x, layer.weight)
        return self.other(x)


class ByDtype(Reading):
    def forward(self, x):
        return self.read(self.other(x).to(self.read.weight.dtype))


class Unless(Reading):
    def forward(self, x):
        if self.training and x.is_cuda:
            return F.linear(self.other(x), self.read.weight)
        return self.read(self.other(x))


class Never(Reading):
    def forward(self, x):
        if self.flag and self.size > 1 and x.is_cuda:
            return F.linear(self.other(x), self.read.weight)
        return self.read(self.other(x))


class Device(Reading):
    def forward(self, x):
        assert isinstance(self.read.weight, torch.Tensor) and not self.other.weight.is_meta
        return self.read(self.other(x.to(self.read.weight.device)))


class Prepared(Reading):
    def forward(self, x):
        if self.read.weight.dtype not in (torch.int8, torch.uint8):
            x = x.to(self.read.weight.dtype)
        return self.read(self.other(x))


READ = {Direct: "read", ByMethod: "read", ByFunction: "read", ByVariable: "read", InLoop: "several.0"}
READ |= {ByDtype: "read", Unless: "read"}


@pytest.mark.parametrize("kind", READ, ids=lambda kind: kind.__name__)
def test_what_is_read_is_found(kind):
    model = nn.Sequential(kind(), nn.Linear(64, 4))
    for codes in (torch.uint8, torch.int8):
        assert read_elsewhere(model, codes) == {f"0.{READ[kind]}": kind.__name__}


@pytest.mark.parametrize("kind", [Never, Device, Prepared], ids=lambda kind: kind.__name__)
def test_what_is_never_computed_with_is_not(kind):
    assert read_elsewhere(nn.Sequential(kind(), nn.Linear(64, 4)), torch.uint8) == {}


def test_a_branch_that_this_module_takes_counts():
    model = Never()
    model.flag, model.size = True, 2
    assert read_elsewhere(model, torch.uint8) == {"read": "Never"}


def test_without_source_all_that_is_named_counts():
    space = {"nn": nn, "F": F, "Reading": Reading}
    code = "class Made(Reading):\n    def forward(self, x):\n        return F.linear(x, self.read.weight)"
    exec(code, space)
    assert read_elsewhere(space["Made"](), torch.uint8) == {"read": "Made"}


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2, tiny_bert, tiny_moe, tiny_vit])
def test_ordinary_models_have_none(build):
    assert read_elsewhere(build(), torch.uint8) == read_elsewhere(build(), torch.int8) == {}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kind", [Direct, ByVariable, ByDtype], ids=lambda kind: kind.__name__)
def test_wrap_leaves_them_as_they_are_and_says_so(kind, scheme):
    model, x = nn.Sequential(kind(), nn.Linear(64, 4)), torch.randn(3, 64)
    with pytest.warns(HybridOptWarning, match=f"1 linear layers such as '0.read'.*{kind.__name__} reads") as caught:
        hybridopt.wrap(model, policy="adamw", quantization=scheme)
    assert caught[0].filename == __file__
    assert type(model[0].read) is nn.Linear and type(model[0].other) is not nn.Linear
    model(x).square().mean().backward()
    assert model[0].read.weight.grad is not None or kind is ByDtype


def test_trained_codes_are_values_to_all_who_read_them():
    model, x = nn.Sequential(Direct(), nn.Linear(64, 4)), torch.randn(3, 64)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hybridopt.wrap(model, quantization="int8-trainable")
    assert set(model.hybrid.quantized) == {"0.read", "0.other", "0.several.0"}
    model(x).square().mean().backward()
    assert model[0].read.weight.grad is not None


@pytest.mark.parametrize("scheme", SCHEMES)
def test_torchs_own_layers_work_in_evaluation(scheme):
    """Its fast path reads the weights of both linear layers, and the attention those of its projections."""
    torch.manual_seed(0)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(64, 64)
            self.block = nn.TransformerEncoderLayer(64, 4, 128, dropout=0, batch_first=True)
            self.head = nn.Linear(64, 4)

        def forward(self, x):
            return self.head(self.block(self.inner(x)))

    model, x = Model(), torch.randn(2, 5, 64)
    with pytest.warns(HybridOptWarning, match="2 linear layers such as 'block.linear1'"):
        hybridopt.wrap(model, quantization=scheme)
    assert model.hybrid.quantized == ("inner",)
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x), model.train()(x), atol=0.05, rtol=0.0)


def test_a_model_of_nothing_else_is_refused():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.head = nn.Linear(64, 64), nn.Linear(64, 4)

        def forward(self, x):
            return self.head(F.linear(x, self.lin.weight))

    with pytest.raises(HybridOptError, match="no linear layer to quantize .*read by Model: lin.weight"):
        hybridopt.wrap(Model(), quantization="nf4")


def test_folders_that_hold_such_layers_quantized_load(tmp_path, monkeypatch):
    """They were quantized once, and have to be for what was saved."""
    from hybridopt.model.quantization import candidates, targets

    def model():
        return nn.Sequential(ByDtype(), nn.Linear(64, 4))

    with monkeypatch.context() as patch:
        for module in (candidates, targets):
            patch.setattr(module, "read_elsewhere", lambda *_: {})
        hybridopt.wrap(old := model(), quantization="nf4").hybrid.save_pretrained(tmp_path)
    assert "0.read" in old.hybrid.quantized
    assert hybridopt.from_pretrained(model(), tmp_path).hybrid.quantized == old.hybrid.quantized


def test_mamba_reads_what_its_kernels_take():
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=96, hidden_size=64, num_hidden_layers=1))
    with pytest.warns(HybridOptWarning, match="MambaMixer reads"):
        hybridopt.wrap(model, quantization="nf4")
    assert model.hybrid.quantized == ("backbone.layers.0.mixer.in_proj",)


def test_names_that_transformers_keeps_in_full_precision_may_be_paths():
    class Model(LlamaForCausalLM):
        _keep_in_fp32_modules = ("mlp.up_proj",)

    model = hybridopt.wrap(Model(tiny_llama(layers=1).config), quantization="nf4")
    assert "model.layers.0.mlp.down_proj" in model.hybrid.quantized
    assert "model.layers.0.mlp.up_proj" not in model.hybrid.quantized
