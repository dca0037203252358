"""Updates within the backward pass of models: memory, ties, checkpointing, containers."""

import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import hybridopt
from hybridopt import HybridOptError, HybridOptimizer
from hybridopt.core.storages import storage_id
from support.models import batch, tiny_gpt2, tiny_llama, tiny_lstm, tiny_moe, tiny_resnet

STEPS = 3


def bits(model):
    return {n: p.detach().clone() for n, p in model.named_parameters()}


def equal(one, other):
    return all(torch.equal(p, other[n]) for n, p in one.items())


def trained(model, release, policy="frugal", steps=STEPS, measure=False, **options):
    if "hybrid" not in vars(model):
        hybridopt.wrap(model, policy, **({"update_gap": 2} if policy in ("frugal", "badam") else {}))
    optimizer = model.hybrid.optimizer(lr=1e-2, weight_decay=0.1, release=release, **options)
    for step in range(steps):
        loss = model(**batch(model, seed=step)).loss
        if measure:
            optimizer.measure(loss)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.mark.parametrize("policy", ["frugal", "adamw", "badam", "adalomo"])
@pytest.mark.parametrize("make", [tiny_llama, tiny_moe, tiny_gpt2, tiny_lstm, tiny_resnet])
def test_the_same_bits_as_accumulate(make, policy):
    if (make, policy) == (tiny_lstm, "badam"):
        policy = "galore"  # no numbered layers
    one, other = trained(make(), "fused", policy), trained(make(), "accumulate", policy)
    assert equal(bits(one), bits(other)) and not equal(bits(one), bits(make()))


@pytest.mark.parametrize("policy", ["frugal", "adamw"])
def test_tied_weights_are_updated_once_by_their_whole_gradient(policy):
    one, other = trained(tiny_llama(tie=True), "fused", policy), trained(tiny_llama(tie=True), "accumulate", policy)
    assert one.lm_head.weight is one.model.embed_tokens.weight
    assert equal(bits(one), bits(other))


def gradient_bytes(model, release):
    """The most bytes of gradients that are alive at one time in a backward pass, as every new one arrives."""
    hybridopt.wrap(model, "frugal")
    peak, params = [0], list(model.parameters())

    def look(_):
        peak[0] = max(peak[0], sum(p.grad.nbytes for p in params if p.grad is not None))

    for p in params:
        p.register_post_accumulate_grad_hook(look)
    optimizer = model.hybrid.optimizer(lr=1e-3, release=release)
    model(**batch(model)).loss.backward()
    optimizer.step()
    return peak[0]


def test_no_more_than_one_gradient_is_alive():
    model = tiny_llama(layers=8)
    sizes = [p.nbytes for p in model.parameters()]
    assert gradient_bytes(model, "accumulate") == sum(sizes)
    assert gradient_bytes(tiny_llama(layers=8), "fused") == max(sizes) < sum(sizes) / 30


class Live(torch.utils._python_dispatch.TorchDispatchMode):
    """The most bytes of tensors made within it that were alive at one time."""

    def __init__(self, known):
        super().__init__()
        self.now, self.peak, self.seen = 0, 0, {storage_id(p) for p in known}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in torch.utils._pytree.tree_leaves(out):
            if isinstance(x, torch.Tensor) and storage_id(x) not in self.seen:
                storage = x.untyped_storage()
                self.seen.add(storage_id(storage))
                self.now += storage.nbytes()
                weakref.finalize(storage, self._gone, storage_id(storage), storage.nbytes())
        self.peak = max(self.peak, self.now)
        return out

    def _gone(self, key, size):
        self.seen.discard(key)
        self.now -= size


def made_in_backward(release):
    model = hybridopt.wrap(tiny_llama(layers=8), "lomo", head="full")
    optimizer = model.hybrid.optimizer(lr=1e-3, release=release, nonfinite="ignore")
    loss = model(**batch(model, size=1)).loss
    with Live(model.parameters()) as live:
        loss.backward()
    optimizer.step()
    return live.peak, sum(p.nbytes for p in model.parameters())


def test_autograd_keeps_no_gradients_either():
    """Also those that are on their way: everything that the backward pass makes."""
    kept, all_gradients = made_in_backward("accumulate")
    freed, _ = made_in_backward("fused")
    assert kept > all_gradients and freed < all_gradients / 5


# ---- checkpointing


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("tie", [True, False])
def test_gradient_checkpointing_of_both_kinds(reentrant, tie):
    def model():
        made = tiny_llama(tie=tie)
        made.gradient_checkpointing_enable({"use_reentrant": reentrant})
        if reentrant:
            made.enable_input_require_grads()
        return made

    one = trained(model(), "fused")
    assert equal(bits(one), bits(trained(model(), "accumulate")))
    assert equal(bits(one), bits(trained(tiny_llama(tie=tie), "accumulate")))


class Twice(nn.Module):
    """One weight in two checkpointed segments."""

    def __init__(self, reentrant):
        super().__init__()
        self.layer, self.reentrant = nn.Linear(8, 8), reentrant

    def forward(self, x):
        for _ in range(2):
            x = checkpoint(lambda y: self.layer(y).tanh(), x, use_reentrant=self.reentrant)
        return x.square().sum()


def twice(reentrant, release):
    torch.manual_seed(0)
    model = Twice(reentrant)
    optimizer = HybridOptimizer(model.named_parameters(), 0.1, policy="lomo", release=release)
    return model, optimizer, torch.linspace(-1, 1, 24).view(3, 8).requires_grad_()


def test_a_weight_shared_by_reentrant_segments_is_refused_before_its_second_update():
    model, optimizer, x = twice(True, "fused")
    seen = []
    for p in model.parameters():
        p.register_post_accumulate_grad_hook(lambda p: seen.append(p._version))  # after the optimizer's
    with pytest.raises(HybridOptError, match="layer.*arrives after its update.*use_reentrant=False"):
        model(x).backward()
    assert len(seen) in (1, 2)  # one update each, no more
    del optimizer
    gc.collect()
    one, optimizer, x = twice(False, "fused")
    one(x).backward()
    other, theirs, y = twice(True, "accumulate")
    other(y).backward()
    theirs.step()
    assert equal(bits(one), bits(other))


@pytest.mark.parametrize("checkpointing", [True, False])
def test_clipping_by_the_global_norm_in_two_passes(checkpointing):
    def model():
        made = tiny_llama()
        if checkpointing:
            made.gradient_checkpointing_enable({"use_reentrant": False})
        return made

    one = trained(model(), "fused", measure=True, clip=0.1)
    other = trained(model(), "accumulate", measure=True, clip=0.1)
    assert equal(bits(one), bits(other)) and not equal(bits(one), bits(trained(model(), "accumulate")))


@pytest.mark.filterwarnings("ignore:the output layer is state-free")
def test_clipping_is_torchs():
    one, plain = trained(tiny_llama(), "fused", "lomo", 1, measure=True, clip=0.1, nonfinite="ignore"), tiny_llama()
    plain(**batch(plain, seed=0)).loss.backward()
    nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
    with torch.no_grad():
        for name, p in plain.named_parameters():
            wanted = p * (1 - 1e-2 * (0.1 if p.ndim > 1 else 0)) - 1e-2 * p.grad
            torch.testing.assert_close(one.get_parameter(name), wanted, rtol=1e-6, atol=1e-7)


# ---- life


def test_a_new_optimizer_takes_over_and_a_refused_one_does_not():
    model = hybridopt.wrap(tiny_llama(), "adamw")
    first = model.hybrid.optimizer(release="fused")
    with pytest.raises(HybridOptError, match="clip="):
        model.hybrid.optimizer(release="fused", clip=-1)
    model(**batch(model)).loss.backward()
    first.step()
    assert first.param_groups[0]["step"] == 1 and all(p.grad is None for p in model.parameters())
    second = model.hybrid.optimizer(release="accumulate")
    model(**batch(model)).loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    second.step()
    assert first.param_groups[0]["step"] == 1 and second.param_groups[0]["step"] == 1


def test_unwrap_takes_the_hooks():
    model = hybridopt.wrap(tiny_llama(), "adamw")
    optimizer = model.hybrid.optimizer(release="fused")
    model.hybrid.unwrap()
    assert not any(p._post_accumulate_grad_hooks for p in model.parameters())
    before = bits(model)
    model(**batch(model)).loss.backward()
    assert equal(bits(model), before)
    optimizer.step()
    assert not equal(bits(model), before)


def test_a_model_goes_with_its_optimizer():
    model = hybridopt.wrap(tiny_llama(), "frugal")
    optimizer = model.hybrid.optimizer(release="fused")
    model(**batch(model)).loss.backward()
    optimizer.step()
    gone = [weakref.ref(x) for x in (model, optimizer, model.model.layers[0].mlp.up_proj.weight)]
    del model, optimizer
    gc.collect()
    assert all(ref() is None for ref in gone)


def test_adapters_over_a_quantized_base():
    from peft import LoraConfig

    def lora(release):
        model = tiny_llama()
        peft_config = LoraConfig(r=4, target_modules="all-linear")
        torch.manual_seed(0)
        return trained(hybridopt.wrap(model, "frugal", peft_config=peft_config, quantization="nf4"), release)

    assert equal(bits(lora("fused")), bits(lora("accumulate")))


def test_int8_trainable_weights():
    def codes(release):
        model = trained(hybridopt.wrap(tiny_llama(), "adamw", quantization="int8-trainable"), release)
        return {n: x.clone() for n, x in model.state_dict().items()}

    assert equal(codes("fused"), codes("accumulate"))
