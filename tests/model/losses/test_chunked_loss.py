"""The loss in chunks is the plain loss, its gradients are the plain ones, and no logits are made."""

import contextlib
import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import Gemma2Config, Gemma2ForCausalLM, GraniteConfig, GraniteForCausalLM, Trainer, TrainingArguments
from transformers.loss.loss_utils import ForCausalLMLoss

from benchmarks.shared.peak import Peak
from hybridopt import HybridOptError, wrap
from hybridopt.model.losses.chunked import chunked_loss
from hybridopt.model.losses.deferred import Logits
from hybridopt.model.losses.linear_cross_entropy import linear_cross_entropy
from support.models import batch, tiny_bert, tiny_gpt2, tiny_llama, tiny_moe

SHAPE = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
WIDE = {torch.float32: (1e-5, 1e-6), torch.bfloat16: (2e-2, 2e-3)}
pytestmark = pytest.mark.filterwarnings("ignore:the output layer is state-free")


def capped():
    torch.manual_seed(0)
    return Gemma2ForCausalLM(Gemma2Config(**SHAPE, final_logit_softcapping=0.5))


def scaled():
    torch.manual_seed(0)
    return GraniteForCausalLM(GraniteConfig(**SHAPE, logits_scaling=8.0))


def tied_llama():
    return tiny_llama(tie=True)


def lora(model, **options):
    torch.manual_seed(0)
    return get_peft_model(model, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, **options))


def masked(model):
    """A batch in which some labels do not count, among them all of one sequence."""
    inputs = batch(model)
    inputs["labels"][0], inputs["labels"][1:, :4] = -100, -100
    return inputs


def run(model, inputs=None):
    model.zero_grad()
    output = model(**(inputs or masked(model)))
    output.loss.backward()
    return output, {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def assert_close(one, other, dtype=torch.float32):
    rtol, atol = WIDE[dtype]
    torch.testing.assert_close(one[0].loss, other[0].loss, rtol=rtol, atol=atol)
    assert one[1].keys() == other[1].keys()
    for name, grad in one[1].items():
        scale = grad.float().abs().max().item()
        torch.testing.assert_close(grad, other[1][name], rtol=rtol, atol=max(atol * scale * 10, 1e-9), msg=name)


def plain_sum(hidden, weight, labels, bias=None, bend=lambda x: x):
    return F.cross_entropy(bend(F.linear(hidden, weight, bias)).float(), labels, reduction="sum")


# ---- the function


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_cut_gives_the_plain_sum_and_gradients(data):
    tokens, width, words = (data.draw(st.integers(1, top)) for top in (9, 5, 200))
    chunk, biased = data.draw(st.integers(1, 12)), data.draw(st.booleans())
    bend = data.draw(st.sampled_from([None, lambda x: torch.tanh(x / 3.0) * 3.0]))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    labels = torch.randint(words, (tokens,)).masked_fill(torch.rand(tokens) < 0.3, -100)
    leaves = [torch.randn(s, requires_grad=True) for s in ((tokens, width), (words, width), (words,))]
    hidden, weight, bias = leaves if biased else (*leaves[:2], None)
    used = leaves[: 2 + biased]
    mine = linear_cross_entropy(hidden, weight, labels, bias, chunk=chunk, bend=bend)
    wanted = plain_sum(hidden, weight, labels, bias, bend or (lambda x: x))
    torch.testing.assert_close(mine, wanted, rtol=1e-5, atol=1e-5)
    factor = torch.randn(())
    grads = [torch.autograd.grad(factor * total, used) for total in (mine, wanted)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("needs", [(True, False), (False, True), (True, True)])
def test_only_what_is_trained_gets_a_gradient(needs):
    torch.manual_seed(0)
    hidden, weight = (torch.randn(s).requires_grad_(n) for s, n in zip(((6, 8), (32, 8)), needs, strict=True))
    linear_cross_entropy(hidden, weight, torch.arange(6), chunk=2).backward()
    assert tuple(x.grad is not None for x in (hidden, weight)) == needs


def test_bfloat16_gradients_of_the_weight_are_not_summed_in_bfloat16():
    """A thousand chunks of one token are as near to the exact gradient as one product."""
    torch.manual_seed(0)
    hidden, weight, labels = torch.randn(1000, 16).bfloat16(), torch.randn(8, 16).bfloat16(), torch.randint(8, (1000,))

    def gradient(function, dtype=torch.bfloat16):
        w = weight.to(dtype).requires_grad_()
        return torch.autograd.grad(function(hidden.to(dtype), w, labels), w)[0].double()

    exact = gradient(plain_sum, torch.float64)
    off = [(gradient(f) - exact).norm() for f in (plain_sum, lambda *x: linear_cross_entropy(*x, chunk=1))]
    assert off[1] < 1.2 * off[0]


def test_huge_logits_do_not_overflow():
    hidden, weight = torch.tensor([[1e4, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert linear_cross_entropy(hidden, weight, torch.tensor([1])).item() == 1e4


def test_under_autocast_it_is_the_plain_loss_under_autocast():
    torch.manual_seed(0)
    hidden, weight = (torch.randn(s, requires_grad=True) for s in ((40, 16), (100, 16)))
    labels = torch.randint(100, (40,))
    found = []
    for function in (plain_sum, linear_cross_entropy):
        with torch.autocast("cpu", torch.bfloat16):
            total = function(hidden, weight, labels)
        found.append((total, *torch.autograd.grad(total, (hidden, weight))))
    for one, other in zip(*found, strict=True):
        assert one.dtype == other.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(
    ("shapes", "chunk", "text"),
    [
        (((2, 3, 4), (9, 4), (2, 3)), 1, r"hidden \(2, 3, 4\)"),
        (((3, 4), (9, 5), (3,)), 1, "must be"),
        (((3, 4), (9, 4), (2,)), 1, "must be"),
        (((3, 4), (9, 4), (3,)), 0, "chunk=0 is not allowed"),
    ],
)
def test_shapes_that_do_not_fit(shapes, chunk, text):
    hidden, weight, labels = (torch.zeros(s) for s in shapes)
    with pytest.raises(HybridOptError, match=text):
        linear_cross_entropy(hidden, weight, labels.long(), chunk=chunk)


# ---- the models


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(
    "make", [tiny_llama, tied_llama, tiny_gpt2, tiny_moe, capped, scaled], ids=lambda m: m.__name__
)
def test_models_get_the_plain_loss_and_gradients(make, dtype):
    model = make().to(dtype)
    wanted = run(model)
    with chunked_loss(model, chunk=5) as same:
        assert same is model
        found = run(model)
    assert_close(wanted, found, dtype)
    assert wanted[0].logits is not None and found[0].logits is None
    assert len(found[1]) == len(list(model.parameters()))


@pytest.mark.parametrize("options", [{}, {"modules_to_save": ["lm_head"]}])
def test_adapters_and_a_head_that_is_trained_beside_them(options):
    model = lora(tiny_llama(), **options)
    wanted = run(model)
    with chunked_loss(model, chunk=7):
        found = run(model)
    assert_close(wanted, found)
    assert any("lm_head" in name for name in found[1]) == bool(options)
    with model.disable_adapter():
        bare = model(**masked(model)).loss
        with chunked_loss(model, chunk=7):
            torch.testing.assert_close(model(**masked(model)).loss, bare)


def test_a_quantized_base_trains_under_it():
    model = wrap(tiny_llama(), peft_config=LoraConfig(r=4, target_modules="all-linear"), quantization="nf4")
    optimizer, losses = model.hybrid.optimizer(lr=1e-2), []
    with chunked_loss(model, chunk=16):
        for _ in range(5):
            optimizer.zero_grad()
            loss = model(**batch(model)).loss
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.2


def test_options_of_the_plain_loss_count():
    model = tiny_llama()
    inputs = masked(model)
    renamed = inputs | {"labels": inputs["labels"].masked_fill(inputs["labels"] == -100, 5), "ignore_index": 5}
    for values in (inputs | {"num_items_in_batch": torch.tensor(50)}, inputs | {"num_items_in_batch": 50}, renamed):
        wanted = run(model, values)
        with chunked_loss(model, chunk=5):
            assert_close(wanted, run(model, values))
    shifted = {"shift_labels": F.pad(inputs["labels"], (0, 2), value=-100)[:, 2:].contiguous()}
    wanted = run(model, inputs | shifted)
    with chunked_loss(model, chunk=5):
        assert_close(wanted, run(model, inputs | shifted))


def test_without_counting_labels_the_loss_is_nan_as_ever():
    model = tiny_llama()
    inputs = batch(model)
    inputs["labels"][:] = -100
    with chunked_loss(model):
        assert model(**inputs).loss.isnan() and model(**inputs, num_items_in_batch=3).loss == 0


def test_calls_without_labels_and_tuples_are_as_ever():
    model = tiny_llama().eval()
    inputs = batch(model)
    labels = inputs.pop("labels")
    with torch.no_grad():
        wanted = model(**inputs).logits
        loss = model(**inputs, labels=labels).loss
        tokens = model.generate(**inputs, max_new_tokens=3, do_sample=False)
        with chunked_loss(model):
            assert torch.equal(model(**inputs).logits, wanted)
            assert torch.equal(model.generate(**inputs, max_new_tokens=3, do_sample=False), tokens)
            found, *others = model(**inputs, labels=labels, return_dict=False)
            torch.testing.assert_close(found, loss)
            assert not any(isinstance(x, Logits) for x in others)


def test_under_checkpointing():
    model = tiny_llama().train()
    wanted = run(model)
    model.gradient_checkpointing_enable()
    with chunked_loss(model, chunk=5):
        assert_close(wanted, run(model))


def test_everything_is_restored_also_after_an_error():
    model = lora(tiny_llama())
    causal = model.get_base_model()
    modules = (causal, causal.lm_head)
    before = [dict(vars(m)) for m in modules]
    with pytest.raises(KeyError), chunked_loss(model):
        assert "logits" not in model(**batch(model))
        assert (
            list(inspect.signature(causal.forward).parameters)
            == list(inspect.signature(type(causal).forward).parameters)[1:]
        )
        raise KeyError
    assert [dict(vars(m)) for m in modules] == before
    assert causal.loss_function is ForCausalLMLoss
    own = causal.forward = lambda *a, **k: type(causal).forward(causal, *a, **k)
    with chunked_loss(model):
        assert causal.forward is not own
    assert causal.forward is own


def test_copies_made_within_the_block_compute_with_their_own_weights():
    model = tiny_llama()
    with chunked_loss(model, chunk=5):
        wanted = run(model)
        model.zero_grad()
        for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert_close(wanted, run(other))
            assert all(p.grad is None for p in model.parameters())


def test_peak_memory_no_longer_grows_with_tokens_times_words():
    torch.manual_seed(0)
    tokens, words, width, chunk = 512, 8192, 16, 16
    hidden, weight = torch.randn(tokens, width).bfloat16(), torch.randn(words, width).bfloat16()
    labels = torch.randint(words, (tokens,))

    def peak(function, trained):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trained)
        with Peak("cpu") as found:
            function(h, w, labels).backward()
        return found.extra

    for trained in (False, True):
        own = (2 * weight.nbytes if trained else 0) + 4 * hidden.nbytes
        assert peak(plain_sum, trained) > 10 * tokens * words
        assert peak(lambda *x: linear_cross_entropy(*x, chunk=chunk), trained) < 9 * chunk * words + own


# ---- what it is not for


def test_models_that_it_does_not_understand_are_refused_before_anything_changes():
    compiled = tiny_llama()
    compiled.compile(backend="eager")
    other = tiny_llama()
    other.loss_function = lambda *a, **k: None
    for model, text in (
        (torch.nn.Linear(2, 2), "Linear is no causal language model"),
        (tiny_bert(), "the loss of BertForSequenceClassification is "),
        (compiled, "the model is compiled"),
        (other, "is <lambda>, not ForCausalLMLoss"),
    ):
        before = dict(vars(model))
        with pytest.raises(HybridOptError, match=text), chunked_loss(model):
            pass
        assert dict(vars(model)) == before
    model = tiny_llama()
    with chunked_loss(model), pytest.raises(HybridOptError, match="in chunks already"), chunked_loss(model):
        pass
    with pytest.raises(HybridOptError, match="chunk=0"), chunked_loss(model, chunk=0):
        pass


def test_an_output_layer_with_an_adapter_is_refused():
    torch.manual_seed(0)
    model = get_peft_model(tiny_llama(), LoraConfig(r=4, target_modules=["lm_head"]))
    with pytest.raises(HybridOptError, match="the output layer is a Linear with a Parameter"), chunked_loss(model):
        pass


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda logits: logits + 1, "unsupported operand"),
        (lambda logits: logits[..., :5], "cuts them"),
        (lambda logits: logits * torch.ones(1), "multiplies them by tensors"),
        (lambda logits: torch.softmax(logits, -1), "calls softmax with them"),
        (lambda logits: logits.view(-1, 128), "asks for their 'view'"),
    ],
)
def test_models_that_do_more_to_their_logits_are_refused(change, text):
    model = tiny_llama()
    plain = model.lm_head.forward
    head = model.lm_head

    def altered(hidden):
        return change(head._inner(hidden))

    with chunked_loss(model):
        head._inner, head.forward = head.forward, altered
        with pytest.raises((HybridOptError, TypeError), match=text):
            model(**batch(model))
    assert head.forward == plain


@pytest.mark.parametrize("options", [{}, {"bf16": True}])
def test_the_trainer_trains_alike(tmp_path, options):
    data = [{name: x[i] for name, x in batch(tiny_llama(), 8).items()} for i in range(8)]
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "num_train_epochs": 2, **options}
    settings |= {"report_to": [], "disable_tqdm": True, "logging_steps": 1, "save_strategy": "no", "use_cpu": True}

    def losses(around):
        model = tiny_llama()
        with around(model):
            trainer = Trainer(model, TrainingArguments(str(tmp_path), **settings), train_dataset=data)
            trainer.train()
            evaluated = trainer.evaluate(data)["eval_loss"]
        return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] + [evaluated]

    wanted = losses(contextlib.nullcontext)
    assert losses(lambda model: chunked_loss(model, chunk=5)) == pytest.approx(wanted, rel=1e-2 if options else 1e-4)
    assert len(wanted) == 5
