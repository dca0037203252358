"""`load` makes the model that from_pretrained and wrap make, in the memory of the result and one layer."""

import copy
import json
import pickle

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from benchmarks.shared.peak import Peak
from benchmarks.shared.tensor_bytes import held
from hybridopt import HybridOptError, from_pretrained, wrap
from hybridopt.integrations.bitsandbytes import frozen
from hybridopt.model.loading import matching, weight_files
from hybridopt.model.loading.streaming import load
from hybridopt.parts.stores import _int8_weight
from support import quantization
from support.models import batch, tiny_gpt2, tiny_llama, tiny_moe
from support.quantized import evaluate

TRAINABLE = "int8-trainable"
SCHEMES = (*quantization.SCHEMES, TRAINABLE)
LORA = LoraConfig(r=4, target_modules="all-linear")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:the output layer is state-free")]


def tiny_qwen():
    shape = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2}
    torch.manual_seed(0)
    return Qwen2ForCausalLM(Qwen2Config(**shape, num_attention_heads=4, num_key_value_heads=2))


def tied_llama():
    return tiny_llama(tie=True)


MODELS = (tiny_llama, tied_llama, tiny_qwen, tiny_gpt2, tiny_moe)


@pytest.fixture
def folder(tmp_path):
    tiny_llama().bfloat16().save_pretrained(tmp_path)
    return tmp_path


def edit_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(folder, change):
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def bits(model):
    """Every parameter, buffer and quantization constant, by name."""
    found = {}
    for name, tensor in (*model.named_parameters(remove_duplicate=False), *model.named_buffers()):
        parts = quantization.parts(tensor).values() if isinstance(tensor, torch.nn.Parameter) else [tensor]
        found |= {f"{name}/{i}": part.detach() for i, part in enumerate(parts)}
    return found


def assert_same_model(one, other):
    assert type(one) is type(other) and one.config.to_dict() == other.config.to_dict()
    assert one.config.name_or_path == other.config.name_or_path and one.device == other.device
    assert one.training == other.training and one.generation_config == other.generation_config
    mine, theirs = bits(one), bits(other)
    assert mine.keys() == theirs.keys()
    for name, x in mine.items():
        assert x.dtype == theirs[name].dtype and torch.equal(x, theirs[name]), name
    assert [n for n, p in one.named_parameters() if p.requires_grad] == [
        n for n, p in other.named_parameters() if p.requires_grad
    ]
    assert torch.equal(evaluate(one), evaluate(other))


def reference(folder, scheme=None, **options):
    kind = (
        T5ForConditionalGeneration if AutoConfig.from_pretrained(folder).model_type == "t5" else AutoModelForCausalLM
    )
    model = kind.from_pretrained(folder, **options)
    if scheme is not None:
        head = ["lm_head"] if model.get_output_embeddings() is not None else []
        quantization.quantize_(model, scheme, quantization.check(model, scheme, head))
    return model


# ---- the same model


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("scheme", [None, *SCHEMES])
def test_it_is_what_from_pretrained_and_wrap_make(tmp_path, make, scheme):
    model = make()
    model.generation_config.max_new_tokens = 33
    model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    assert_same_model(load(tmp_path, quantization=scheme), reference(tmp_path, scheme))


@pytest.mark.parametrize("dtype", [None, torch.float32, "bfloat16", torch.float16])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_are_cast_before_weights_are_quantized(tmp_path, stored, dtype):
    tiny_llama().to(stored).save_pretrained(tmp_path)
    chosen = dtype or stored
    for scheme in ("nf4", None):
        mine = load(tmp_path, quantization=scheme, dtype=dtype)
        assert mine.model.embed_tokens.weight.dtype == mine.dtype == getattr(torch, str(chosen).removeprefix("torch."))
        assert_same_model(mine, reference(tmp_path, scheme, dtype=dtype or "auto"))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_transformers_keeps_in_float32_stays_so(tmp_path, dtype):
    shape = {"vocab_size": 64, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    T5ForConditionalGeneration(T5Config(**shape)).save_pretrained(tmp_path)
    mine, theirs = load(tmp_path, dtype=dtype), reference(tmp_path, dtype=dtype)
    assert [(n, p.dtype) for n, p in mine.named_parameters()] == [(n, p.dtype) for n, p in theirs.named_parameters()]
    assert (torch.float32 in {p.dtype for p in mine.parameters()}) == (dtype == torch.float16)


def test_quantizing_in_pieces_changes_no_bit(tmp_path, monkeypatch):
    tiny_llama(hidden=192).save_pretrained(tmp_path)
    whole = {
        scheme: quantization.fingerprint(load(tmp_path, quantization=scheme)) for scheme in ("nf4", "fp4", "int8")
    }
    monkeypatch.setattr(frozen, "PIECE", 64 * 7)
    for scheme, mark in whole.items():
        assert quantization.fingerprint(load(tmp_path, quantization=scheme)) == mark


def test_ties_stay(tmp_path):
    tied_llama().save_pretrained(tmp_path)
    model = load(tmp_path, quantization="nf4")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert quantization.weight_bytes(model) == quantization.weight_bytes(reference(tmp_path, "nf4"))


def test_a_tied_tensor_may_be_stored_under_either_name_or_both(tmp_path):
    tied_llama().save_pretrained(tmp_path)
    wanted = bits(load(tmp_path))
    embedding, head = "model.embed_tokens.weight", "lm_head.weight"
    rewrite(tmp_path, lambda t: t.update({head: t[embedding].clone()}))
    assert all(torch.equal(x, wanted[n]) for n, x in bits(load(tmp_path)).items())
    rewrite(tmp_path, lambda t: t.pop(embedding))
    assert all(torch.equal(x, wanted[n]) for n, x in bits(load(tmp_path)).items())
    rewrite(tmp_path, lambda t: t.update({embedding: t[head] + 1}))
    with pytest.raises(HybridOptError, match="ties .* stored with different values; set tie_word_embeddings to false"):
        load(tmp_path)


def test_modules_in_skip_stay_in_full_precision(folder):
    model = load(folder, quantization="nf4", skip=["model.layers.1", "model.layers.0.mlp.down_proj"])
    kinds = {n: type(m).__name__ for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
    left = {n for n, kind in kinds.items() if kind == "Linear" and n != "lm_head"}
    assert left == {n for n in kinds if n.startswith("model.layers.1.")} | {"model.layers.0.mlp.down_proj"}


def test_nothing_stays_mapped(folder):
    model = load(folder)
    before = {n: x.clone() for n, x in bits(model).items()}
    file = folder / "model.safetensors"
    with file.open("r+b") as opened:
        opened.seek(-4096, 2)
        opened.write(b"\1" * 4096)
    assert all(torch.equal(x, before[n]) for n, x in bits(model).items())


# ---- the memory


def peak_of_loading(monkeypatch, folder, **options):
    """Bytes allocated at most, beyond those that a mapped file takes, and of the finished model."""

    def unmapped(entry):
        with weight_files.safe_open(entry.file, "pt", backend="pread") as file:
            return file.get_tensor(entry.name)

    load(folder, **options)  # tables that are made once
    monkeypatch.setattr(matching, "read", unmapped)  # torch's allocator reports mapped files, but not these
    with Peak("cpu") as peak:
        model = load(folder, **options)
    return peak.extra, held(list(bits(model).values()))


@pytest.mark.parametrize("scheme", [None, *SCHEMES])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_the_peak_is_the_model_and_one_layer(tmp_path, monkeypatch, scheme, stored):
    """One linear layer, that is; working room is kept out by small pieces."""
    model = tiny_llama(hidden=256, layers=2).to(stored)
    model.save_pretrained(tmp_path, max_shard_size="1MB")
    monkeypatch.setattr(frozen, "PIECE", 1 << 10)
    monkeypatch.setattr(_int8_weight, "PIECE", 1 << 10)
    peak, final = peak_of_loading(monkeypatch, tmp_path, quantization=scheme, dtype=torch.bfloat16)
    layer = 2 * max(p.numel() for p in model.parameters())
    assert final <= peak <= final + layer + 100_000
    assert scheme is None or final < 0.6 * 2 * sum(p.numel() for p in model.parameters())


def test_the_room_for_quantizing_is_smaller_than_the_layer():
    layer = torch.nn.Linear(2048, 1024, bias=False, dtype=torch.bfloat16)
    with Peak("cpu") as peak:
        kept = _int8_weight.Int8Weight.quantize(layer.weight)
    assert peak.extra < sum(x.nbytes for x in kept.parts().values()) + layer.weight.nbytes


# ---- training on it


def train(model, steps=6, **checkpointing):
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=checkpointing)
    optimizer, losses = model.train().hybrid.optimizer(lr=1e-2), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model(**batch(model)).loss
        loss.backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        losses.append(loss.item())
    return losses, grads


def adapted(folder, scheme):
    torch.manual_seed(0)
    return wrap(load(folder, quantization=scheme), peft_config=LORA)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_adapters_train_under_checkpointing_without_preparation(folder, scheme, reentrant):
    model = adapted(folder, scheme)
    losses, _ = train(model, use_reentrant=reentrant)
    assert losses[-1] < losses[0] - 0.2
    kept = {n: p.dtype for n, p in model.named_parameters() if "lora" not in n}
    assert set(kept.values()) <= {torch.bfloat16, torch.uint8, torch.int8}
    assert any("norm" in n for n in kept) and any("embed" in n for n in kept)
    plain, again = train(adapted(folder, scheme), 1)[1], train(adapted(folder, scheme), 1, use_reentrant=reentrant)[1]
    assert len(plain) == 28 and plain.keys() == again.keys()
    for name, grad in plain.items():
        torch.testing.assert_close(again[name], grad, rtol=0.05, atol=0.02 * grad.abs().max().item() + 1e-9)


def test_inputs_ask_for_gradients_only_under_checkpointing(folder):
    model = wrap(load(folder, quantization="nf4"), peft_config=LORA).train()
    seen = []
    model.get_input_embeddings().register_forward_hook(lambda m, a, out: seen.append(out.requires_grad))
    model(**batch(model))
    model.gradient_checkpointing_enable()
    model(**batch(model))
    model.eval()(**batch(model))
    assert seen == [False, True, False]


def test_weights_are_trained_on_codes(folder):
    losses, _ = train(wrap(load(folder, quantization=TRAINABLE)))
    assert losses[-1] < losses[0] - 0.2


def test_copies_and_pickles_work(folder):
    model = load(folder, quantization="nf4")
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(evaluate(model), evaluate(other))
        (hook,) = other.get_input_embeddings()._forward_hooks.values()
        assert hook.model is other


def test_what_was_trained_comes_back_on_a_loaded_base(folder, tmp_path):
    model = wrap(load(folder, quantization="nf4"), peft_config=LORA)
    train(model)
    model.hybrid.save_pretrained(tmp_path / "out")
    back = from_pretrained(load(folder, quantization="nf4"), tmp_path / "out")
    assert torch.equal(evaluate(back), evaluate(model))


# ---- bad input


def test_names_of_the_hub_are_not_downloaded():
    with pytest.raises(
        HybridOptError, match=r"no such folder. Nothing is downloaded.*snapshot_download\('org/model'\)"
    ):
        load("org/model")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"quantization": "nf5"}, "quantization='nf5' is not known; did you mean 'nf4'"),
        ({"dtype": "int8"}, "dtype='int8' is not known"),
        ({"device": "cuda:7"}, "device='cuda:7' is not there"),
        ({"device": "meta"}, "holds no values"),
        ({"quantization": "nf4", "skip": ["nothing"]}, "no modules of that name"),
        ({"quantization": "nf4", "skip": ["model"]}, "no linear layer to quantize"),
    ],
)
def test_options_that_cannot_be(folder, options, text):
    with pytest.raises(HybridOptError, match=text):
        load(folder, **options)


def test_folders_that_are_none(folder, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, text in (
        (folder / "config.json", "is no folder"),
        (empty, "has no config.json"),
        ("", "give the path of the folder"),
        (None, "give the path of the folder"),
    ):
        with pytest.raises(HybridOptError, match=text):
            load(path)


def test_folders_without_safetensors(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(HybridOptError, match=r"has pytorch_model.bin: save it as safetensors"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"model_type": "own", "auto_map": {"AutoConfig": "own.Config"}}, "no configuration of a model that transf"),
        ({"architectures": ["OwnForCausalLM"]}, r"architectures=\['OwnForCausalLM'\], which transformers .* has not"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"quantized already \(gptq\)"),
        ({"hidden_size": 32, "head_dim": 16}, r"is stored with shape .* and the model of this config.json has"),
        ({"num_hidden_layers": 3}, r"finds no 'model.layers.2.* and 6 more in the folder"),
        ({"num_hidden_layers": 1}, r"has no place for 'model.layers.1.* and 6 more in the folder"),
        ({"hidden_act": "own"}, "transformers cannot build this model"),
        ({"model_type": "lamma"}, r"no configuration of a model .*; did you mean model_type='llama'\?"),
        ({"hidden_size": "64"}, r"no configuration of a model .*'hidden_size'.* int"),
    ],
)
def test_configs_of_other_models(folder, changes, text):
    edit_config(folder, **changes)
    with pytest.raises(HybridOptError, match=text):
        load(folder)


@pytest.mark.parametrize("content", ["{broken", "[1]"])
def test_a_damaged_configuration_of_generation_is_told(folder, content):
    (folder / "generation_config.json").write_text(content)
    with pytest.raises(HybridOptError, match="generation_config.json is no configuration of how a model generates"):
        load(folder)


def test_a_model_without_architecture_is_a_causal_language_model(folder):
    wanted = reference(folder)
    edit_config(folder, architectures=None)
    assert torch.equal(evaluate(load(folder)), evaluate(wanted))


@pytest.mark.parametrize("keep", [20, 0.5, 0.999])
def test_truncated_files(folder, keep):
    file = folder / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: keep if keep > 1 else int(keep * len(data))])
    with pytest.raises(HybridOptError, match="model.safetensors cannot be read"):
        load(folder)


def test_shards_that_are_lost_or_changed(tmp_path):
    tiny_llama().save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    held = shards[0].read_bytes()
    shards[0].unlink()
    with pytest.raises(HybridOptError, match="there is no such file"):
        load(tmp_path)
    shards[0].write_bytes(shards[1].read_bytes())
    with pytest.raises(HybridOptError, match="which model.safetensors.index.json says it has"):
        load(tmp_path)
    shards[0].write_bytes(held)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(shards[0].name, f"../{shards[0].name}"))
    with pytest.raises(HybridOptError, match="which is no file name"):
        load(tmp_path)


def test_dtypes_that_need_scales(folder):
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(folder, lambda t: t.update({name: t[name].to(torch.float8_e4m3fn)}))
    with pytest.raises(HybridOptError, match="F8_E4M3, which says little without its scales"):
        load(folder)


def test_weights_that_are_not_finite(folder):
    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(folder, lambda t: t[name][0].fill_(torch.inf))
    with pytest.raises(HybridOptError, match="up_proj.weight has values from .* to inf"):
        load(folder, quantization="nf4")


def test_tensors_are_not_read_before_all_is_checked(folder, monkeypatch):
    monkeypatch.setattr(matching, "read", None)
    edit_config(folder, num_hidden_layers=3)
    with pytest.raises(HybridOptError, match="finds no"):
        load(folder)


def test_buffers_that_old_checkpoints_hold_are_left_out(folder):
    wanted = bits(load(folder))
    rewrite(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    assert all(torch.equal(x, wanted[n]) for n, x in bits(load(folder)).items())
