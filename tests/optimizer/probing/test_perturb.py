"""Shifted copies stand in for parameters wherever they are used, and the parameters are never written."""

import copy
import gc
import sys
import weakref

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from hybridopt.core.errors import HybridOptError
from hybridopt.optimizer.probing import perturb
from hybridopt.optimizer.probing.perturb import Perturbation
from support.models import VOCAB, batch, tiny_bert, tiny_gpt2, tiny_llama, tiny_lstm, tiny_moe, tiny_resnet, tiny_vit
from support.quantized import quantized, with_lora
from support.shifted import Functional, add, moved, sha, state, still, subtract, trained

MODELS = (tiny_llama, tiny_moe, tiny_gpt2, tiny_bert, tiny_vit, tiny_resnet, tiny_lstm)


def at(perturbation, shift, closure):
    """The loss, evaluated again as long as parameters were missed; and how often it was."""
    for times in range(1, 10):
        with torch.no_grad(), perturbation.shifted(shift):
            loss = closure()
        if not perturbation.missed:
            return loss, times
    raise AssertionError("never settles")


def check(model, closure_of, loose=None, repeats=1):
    """Losses at theta +- delta are those of models that were really moved there; nothing is changed."""
    perturbation, before = Perturbation(trained(model), model), state(model)
    for shift, times in ((add, 1 + repeats), (subtract, 1), (still, 1)):
        loss, was = at(perturbation, shift, closure_of(model))
        assert was == times
        with torch.no_grad():
            expected = closure_of(moved(model, shift) if shift is not still else model)()
        assert torch.equal(loss, expected), (shift.__name__, loss, expected)
        assert not loss.is_inference()
        assert state(model) == before
    with torch.no_grad():
        up, down = (closure_of(moved(model, shift))() for shift in (add, subtract))
    assert up != down or up.dtype == torch.bfloat16
    if loose is not None:
        assert perturbation.loose == set(loose)
    return perturbation


def loss_of(model, **options):
    return lambda: model(**batch(model), **options).loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("make", MODELS)
def test_losses_are_those_of_a_moved_model_and_weights_stay_to_the_bit(make, dtype):
    if make is tiny_moe and dtype == torch.float64:
        pytest.skip("torch has no grouped products in float64")
    model = make().to(dtype).eval()
    noted = [name for name in trained(model) if name.startswith("lstm.")]  # in lists of their own
    check(model, loss_of, repeats=0, loose=noted)


@pytest.mark.parametrize("make", [lambda: tiny_llama(tie=True), tiny_gpt2])
def test_tied_weights_are_shifted_alike_wherever_they_are_used(make):
    model = make().train()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    check(model, loss_of, repeats=0, loose=())


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing_enable.:FutureWarning")
def test_gradient_checkpointing_changes_nothing():
    for reentrant in (False, True):
        model = tiny_llama()
        model.gradient_checkpointing_enable({"use_reentrant": reentrant})
        check(model.train(), loss_of, repeats=0, loose=())


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_adapters_over_a_quantized_base(scheme):
    model = with_lora(quantized(tiny_llama(), scheme, ["lm_head"]))
    with torch.no_grad():
        model(**batch(model))  # bitsandbytes packs on the first pass
    check(model, loss_of, repeats=0, loose=())


@pytest.fixture
def tokens():
    return torch.arange(12).view(2, 6)


def test_weights_used_outside_their_modules_are_found(tokens):
    torch.manual_seed(0)
    loose = ("emb.weight", "odd.weight", "odd.bias", "scales.0", "scales.1")
    check(Functional(), lambda m: lambda: m(tokens), loose=loose)


def test_weights_that_the_closure_uses_itself_are_found(tokens):
    torch.manual_seed(0)
    model = Functional()
    ways = {
        "transposed": lambda m: (m.emb(tokens) @ m.lin.weight.t()).square().mean(),
        "data": lambda m: (m.emb(tokens) @ m.lin.weight.data).square().mean(),
        "detached": lambda m: F.linear(m.emb(tokens), m.lin.weight.detach()[:4]).square().mean(),
        "in a list": lambda m: torch.cat(
            [m.lin(m.emb(tokens)).flatten(), *map(torch.flatten, m.lin.parameters())]
        ).std(),
        "penalty": lambda m: m.lin(m.emb(tokens)).square().mean() + m.lin.weight.square().sum(),
        "by keyword": lambda m: F.linear(input=m.emb(tokens), weight=m.lin.weight).square().mean(),
        "functional_call": lambda m: torch.func.functional_call(
            m, {n: p.detach() for n, p in m.named_parameters()}, (tokens,)
        ),
    }
    for way in ways.values():
        perturbation = check(model, lambda m, way=way: lambda: way(m))
        assert "lin.weight" in perturbation.loose


def test_neighbours_in_memory_are_told_apart():
    torch.manual_seed(0)
    model, flat, x = nn.Sequential(nn.Linear(4, 4, False), nn.Linear(4, 4, False)), torch.randn(32), torch.ones(4)
    for i, module in enumerate(model):
        module.weight = nn.Parameter(flat[16 * i :][:16].view(4, 4))
    check(model, lambda m: lambda: F.linear(m(x), m[1].weight).square().mean(), loose=["1.weight"])


def test_metadata_is_not_a_use(tokens):
    model = nn.Sequential(nn.Embedding(VOCAB, 8), nn.Linear(8, 8))

    def closure(m):
        w = m[1].weight
        noted = (w.shape, w.dtype, w.device, w.size(), w.numel(), w.dim(), w.requires_grad, w.is_contiguous())
        return lambda: m(tokens).to(w.dtype).view(*tokens.shape, w.shape[0]).square().mean() * len(noted)

    check(model, closure, repeats=0, loose=())


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.layer(x).square().mean() + self.layer(x).mean()


@pytest.mark.parametrize("training", [True, False])
def test_attention_of_torch_is_followed_into_its_fast_path(training):
    torch.manual_seed(0)
    model = Attention().train(training)
    x = torch.randn(2, 5, 16)
    perturbation, before = Perturbation(trained(model), model), state(model)
    for shift in (add, subtract):
        loss, _ = at(perturbation, shift, lambda: model(x))
        with torch.no_grad():
            torch.testing.assert_close(loss, moved(model, shift)(x))
        assert state(model) == before
    assert "layer.self_attn.out_proj.weight" in perturbation.loose


class Recursive(nn.Module):
    """Calls itself, and shares a module."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(4, 4))
        self.a = self.b = nn.Linear(4, 4)

    def forward(self, x, again=2):
        x = torch.tanh(x @ self.w)
        x = self.forward_again(x, again) if again else x
        return (self.b(self.a(x)) @ self.w).mean() if again == 2 else x @ self.w

    def forward_again(self, x, again):
        return self(x, again - 1)


def test_modules_that_call_themselves_stay_shifted():
    torch.manual_seed(0)
    x = torch.randn(3, 4)
    check(Recursive(), lambda m: lambda: m(x), repeats=0, loose=())


class Scaled(nn.Module):
    """Calls itself, and has a tensor that is no parameter."""

    def __init__(self):
        super().__init__()
        self.scale = torch.full((4,), 3.0)

    def forward(self, x, again=2):
        return self(x * self.scale, again - 1) * self.scale if again else x * self.scale


def test_tensors_of_modules_that_call_themselves_stay_shifted():
    model, x = Scaled(), torch.ones(4)
    where = model.scale.data_ptr()
    perturbation = Perturbation({"scale": model.scale}, model, {"scale": model})
    loss, times = at(perturbation, lambda n, p: p + 1, lambda: model(x))
    assert times == 1 and torch.equal(loss, torch.full((4,), 4.0**5))
    assert model.scale.data_ptr() == where and torch.equal(model.scale, torch.full((4,), 3.0))


def test_hooks_of_a_module_see_what_it_computes_with():
    """As those of weight_norm, which make its weight."""
    torch.manual_seed(0)
    model = Functional().lin
    model.register_forward_pre_hook(lambda m, _: setattr(m, "norm", m.weight.norm()))
    model.register_forward_hook(lambda m, _, out: out * m.weight.norm() / m.norm)
    check(model, lambda m: lambda: m(torch.ones(8)).sum(), repeats=0, loose=())


def test_without_a_root_all_parameters_are_loose(tokens):
    model = tiny_llama(tie=True)
    perturbation, before = Perturbation(trained(model), None), state(model)
    loss, times = at(perturbation, add, loss_of(model))
    with torch.no_grad():
        assert torch.equal(loss, moved(model)(**batch(model)).loss)
    assert times == 1 and perturbation.loose == set(trained(model)) and state(model) == before


def test_some_parameters_stay_where_they_are():
    model = tiny_llama()
    some = {n: p for n, p in model.named_parameters() if "q_proj" in n or "norm" in n}
    perturbation = Perturbation(some, model)
    loss, times = at(perturbation, lambda n, p: add(n, p) if "q_proj" in n else None, loss_of(model))
    with torch.no_grad():
        other = moved(model, lambda n, p: add(n, p) if "q_proj" in n else p)
        assert times == 1 and torch.equal(loss, other(**batch(model)).loss)


def test_what_is_left_out_of_the_watched_evaluation_is_found_all_the_same(tokens):
    torch.manual_seed(0)
    model = Functional()
    perturbation = Perturbation(trained(model), model)
    at(perturbation, still, lambda: model(tokens))
    loss, times = at(perturbation, add, lambda: model(tokens))
    assert times == 1 and "emb.weight" in perturbation.loose
    with torch.no_grad():
        assert torch.equal(loss, moved(model)(tokens))


def test_aliases_made_before_are_refused(tokens):
    torch.manual_seed(0)
    model = Functional()
    for alias in (model.lin.weight.data, model.lin.weight.detach()[2:5], model.lin.weight.t()):
        perturbation, before = Perturbation(trained(model), model), state(model)
        with pytest.raises(HybridOptError, match=r"'lin.weight'.*share their memory"):
            at(perturbation, add, lambda alias=alias: model(tokens) + alias.sum())
        assert state(model) == before


@pytest.mark.parametrize("make", [lambda: tiny_llama(tie=True), tiny_moe, tiny_resnet, tiny_bert])
def test_one_module_at_a_time_has_copies(make):
    model = make()
    most = max(sum(p.nbytes for p in module._parameters.values() if p is not None) for module in model.modules())
    live, peak = alive_during(model)
    assert peak == most and not live


def test_loose_parameters_add_their_size():
    model = tiny_lstm()
    live, peak = alive_during(model)
    assert peak == sum(p.nbytes for part in (model.lstm, model.out) for p in part.parameters()) and not live


def alive_during(model):
    """(copies that are left, most bytes of copies at any time)."""
    alive, sizes = weakref.WeakSet(), []

    def counted(name, p):
        shifted = add(name, p)
        alive.add(shifted.untyped_storage())
        sizes.append(sum(x.nbytes() for x in alive))
        return shifted

    gc.disable()  # so that nothing waits for it
    try:
        _, times = at(Perturbation(trained(model), model), counted, loss_of(model))
    finally:
        gc.enable()
    assert times == 1 and len(sizes) >= len(trained(model))
    return list(alive), max(sizes)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, StopIteration, MemoryError])
def test_everything_is_back_whatever_module_raises(error):
    model = tiny_llama(tie=True)
    loose, before = Functional(), state(model)
    modules = [m for m in model.modules() if m._parameters]

    def fail(*_):
        raise error("stop")

    for module in modules:
        for register in (module.register_forward_hook, module.register_forward_pre_hook):
            handle = register(fail)
            perturbation = Perturbation({**trained(model), **trained(loose)}, model)
            with pytest.raises(error, match="stop"), torch.no_grad(), perturbation.shifted(add):
                model(**batch(model))
            handle.remove()
            assert state(model) == before


def test_a_failing_module_whose_error_is_caught_goes_on_shifted():
    torch.manual_seed(0)
    model = Recursive()

    def closure(m):
        def run():
            true = trained(m)
            try:
                m(torch.randn(3, 5))
            except RuntimeError:
                assert all(p is true[name] for name, p in m.named_parameters())
            return m(torch.ones(3, 4))

        return run

    check(model, closure, repeats=0, loose=())


def test_an_interrupt_at_any_line_leaves_everything_as_it_was(tokens):
    """Of all lines of the module that are run in one evaluation, one after the other is where the interrupt comes."""
    torch.manual_seed(0)
    model = Functional()
    before, total = state(model), 0

    def evaluate(stop):
        perturbation = Perturbation(trained(model), model)
        perturbation.loose = {"emb.weight"}
        left = [stop]

        def trace(frame, event, _):
            if frame.f_code.co_filename != perturb.__file__:
                return None
            if event == "line":
                left[0] -= 1
                if left[0] == 0:
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            with torch.no_grad(), perturbation.shifted(add, watch=False):
                model(tokens)
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        return stop - left[0]

    total = evaluate(10**9)
    assert total > 200
    for stop in range(1, total + 1):
        evaluate(stop)
        assert state(model) == before, stop


def test_autocast_does_not_remember_casts_of_other_shifts(tokens):
    torch.manual_seed(0)
    model = Functional()
    perturbation = Perturbation(trained(model), None)
    with torch.no_grad():
        expected = []
        for shift in (add, subtract):
            with torch.autocast("cpu", torch.bfloat16):
                expected.append(moved(model, shift)(tokens))
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16):
        model(tokens)
        with perturbation.shifted(add):
            up = model(tokens)
        with perturbation.shifted(subtract):
            down = model(tokens)
        same = model(tokens)
    assert torch.equal(up, expected[0]) and torch.equal(down, expected[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(same, model(tokens))


@pytest.mark.parametrize("scheme", ["nf4", "fp4"])
def test_tensors_that_are_no_parameters_follow_their_module(scheme):
    model = quantized(tiny_llama(), scheme, ["lm_head"])
    layers = {name: m for name, m in model.named_modules() if hasattr(getattr(m, "weight", None), "quant_state")}
    states = {name: m.weight.quant_state for name, m in layers.items()}
    scales = {name: x.state2.absmax if x.nested else x.absmax for name, x in states.items()}
    before = {name: (sha(x), x._version, x.data_ptr()) for name, x in scales.items()}
    perturbation = Perturbation(scales, model, layers)
    loss, times = at(perturbation, lambda n, p: p * 1.5, loss_of(model))
    assert times == 1 and not perturbation.loose
    assert {name: (sha(x), x._version, x.data_ptr()) for name, x in scales.items()} == before
    with torch.no_grad():
        plain = loss_of(model)()
        for x in scales.values():
            x.mul_(1.5)
        assert torch.equal(loss, loss_of(model)()) and loss != plain


def test_a_tensor_used_outside_its_owner_is_found():
    class ScaledLinear(nn.Linear):
        scale = torch.ones(4)

        def forward(self, x):
            return super().forward(x) * self.scale

    model = nn.Sequential(ScaledLinear(4, 4), nn.Linear(4, 4))
    scale, x = model[0].scale, torch.ones(2, 4)
    perturbation = Perturbation({"scale": scale}, model, {"scale": model[0]})
    loss, times = at(perturbation, add, lambda: (model(x) * scale).sum())
    with torch.no_grad():
        shifted = add("scale", scale)
        expected = (model[1](F.linear(x, model[0].weight, model[0].bias) * shifted) * shifted).sum()
    assert times == 2 and perturbation.loose == {"scale"} and torch.equal(loss, expected)


def test_coded_parameters_are_refused_outside_their_modules():
    model = quantized(tiny_llama(), "int8-trainable", ["lm_head"])
    coded = {n: p for n, p in model.named_parameters() if hasattr(p, "codes")}
    perturbation, before = Perturbation(coded, None), [p.codes.clone() for p in coded.values()]
    with pytest.raises(HybridOptError, match="Int8Weight.*outside the forward of its own module"):
        at(perturbation, lambda n, p: p.detach().dequantize(), loss_of(model))
    assert all(torch.equal(p.codes, x) for p, x in zip(coded.values(), before, strict=True))


def test_parameters_without_values_are_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, device="meta"))
    with pytest.raises(HybridOptError, match="'1.weight' is on the meta device"):
        at(Perturbation(trained(model), model), add, lambda: model[0](torch.ones(2)))


def test_coded_parameters_are_shifted_in_their_modules():
    model = quantized(tiny_llama(), "int8-trainable", ["lm_head"])
    coded = {n: p for n, p in model.named_parameters() if hasattr(p, "codes")}
    loss, times = at(Perturbation(coded, model), lambda n, p: p.detach().dequantize() * 1.1, loss_of(model))
    other = copy.deepcopy(model)
    for name, p in other.named_parameters():
        if name in coded:
            module = other.get_submodule(name.rpartition(".")[0])
            module.weight = nn.Parameter(p.detach().dequantize() * 1.1)
    with torch.no_grad():
        assert times == 1 and torch.equal(loss, other(**batch(other)).loss)


def test_the_model_can_be_freed():
    model = tiny_lstm()
    perturbation, gone = Perturbation({}, model), weakref.ref(model)
    with perturbation.shifted(add):
        loss_of(model)()
    del model
    gc.collect()
    assert gone() is None and perturbation.root is None


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x):
        return x + self.down(torch.relu(self.up(x)))


def by_wrapper(model, **options):
    return torch.compile(model, **options)


def in_place(model, **options):
    model.compile(**options)
    return model


def by_block(model, **options):
    model[1].compile(**options)
    return model


def by_function(model, **options):
    return torch.compile(lambda x: model(x), **options)


def by_wrapped_block(model, **options):
    model[1] = torch.compile(model[1], **options)
    return model


COMPILED = (by_wrapper, in_place, by_block, by_function, by_wrapped_block)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("how", COMPILED)
def test_compiled_models_compute_with_the_copies(how, whole, warm):
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), Block(), nn.Linear(4, 2)), torch.randn(3, 4)
    plain = copy.deepcopy(model)
    run = how(model, fullgraph=whole, backend="aot_eager")
    if warm:
        with torch.no_grad():
            run(x)
    perturbation, before = Perturbation(trained(model), model), state(model)
    names = dict(zip(perturbation.params, trained(plain), strict=True))
    for shift in (add, subtract, add):
        loss, _ = at(perturbation, lambda n, p, shift=shift: shift(names[n], p), lambda: run(x).square().mean())
        with torch.no_grad():
            torch.testing.assert_close(loss, moved(plain, shift)(x).square().mean())
            torch.testing.assert_close(run(x), plain(x))
        assert state(model) == before
    known = {name for name in perturbation.params if name.startswith("1.")}
    assert perturbation.loose == (known if "block" in how.__name__ else set(perturbation.params))


def test_models_compiled_between_two_evaluations_are_noticed():
    torch._dynamo.reset()
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.randn(3, 4)
    perturbation = Perturbation(trained(model), model)
    at(perturbation, add, lambda: model(x).sum())
    run = by_function(model, backend="aot_eager")
    with torch.no_grad(), perturbation.shifted(add, watch=False):
        run(x)
    assert perturbation.missed == set(trained(model))
    with torch.no_grad(), perturbation.shifted(add, watch=False):
        found = run(x)
    assert not perturbation.missed and torch.equal(found, moved(model)(x))
