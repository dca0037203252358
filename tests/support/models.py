"""Tiny models with fixed weights, and a batch for each: `model(**batch(model)).loss` works for all of them.

The caller's random state is left alone, and every builder returns a model in training mode without dropout. The
default width is a multiple of 64 for the sake of 4-bit weights: other widths stay dense on CPUs.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

VOCAB = 96
CLASSES = 5


@dataclass
class Output:
    """What the hand-written models return: the loss (None without labels) and the logits."""

    loss: Tensor | None
    logits: Tensor


def tiny_llama(seed: int = 0, hidden: int = 64, layers: int = 2, tie: bool = False, **config) -> nn.Module:
    """A causal language model: untied unless asked, grouped-query attention, no biases unless asked."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return _build(
        seed,
        lambda: LlamaForCausalLM(LlamaConfig(**_decoder(hidden, layers), tie_word_embeddings=tie, **config)),
    )


def tiny_moe(seed: int = 0, hidden: int = 64, layers: int = 2, **config) -> nn.Module:
    """A mixture of experts whose expert weights are single 3-D parameters, [experts, out, in]."""
    from transformers import MixtralConfig, MixtralForCausalLM

    experts = {"num_local_experts": 4, "num_experts_per_tok": 2}
    return _build(seed, lambda: MixtralForCausalLM(MixtralConfig(**_decoder(hidden, layers), **experts, **config)))


def tiny_gpt2(seed: int = 0, hidden: int = 64, layers: int = 2, **config) -> nn.Module:
    """A causal language model of transposed `Conv1D` layers with biases; the output layer is tied to the embedding."""
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"vocab_size": VOCAB, "n_embd": hidden, "n_layer": layers, "n_head": 4, "n_positions": 64}
    tokens = {"bos_token_id": 1, "eos_token_id": 2}
    calm = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    return _build(seed, lambda: GPT2LMHeadModel(GPT2Config(**shape, **tokens, **calm, **config)))


def tiny_bert(seed: int = 0, hidden: int = 64, layers: int = 2, **config) -> nn.Module:
    """An encoder with a classification head."""
    from transformers import BertConfig, BertForSequenceClassification

    settings = {"vocab_size": VOCAB, "max_position_embeddings": 64, "num_labels": CLASSES, **_encoder(hidden, layers)}
    return _build(seed, lambda: BertForSequenceClassification(BertConfig(**settings, **config)))


def tiny_vit(seed: int = 0, hidden: int = 64, layers: int = 2, **config) -> nn.Module:
    """An image classifier of 4-pixel patches; images are [batch, 3, 16, 16]."""
    from transformers import ViTConfig, ViTForImageClassification

    settings = {"image_size": 16, "patch_size": 4, "num_labels": CLASSES, **_encoder(hidden, layers)}
    return _build(seed, lambda: ViTForImageClassification(ViTConfig(**settings, **config)))


def tiny_resnet(seed: int = 0, width: int = 8) -> nn.Module:
    """A residual network with batch norms and a strided block; images are [batch, 3, 16, 16]."""
    return _build(seed, lambda: ResNet(width))


def tiny_lstm(seed: int = 0, hidden: int = 64, layers: int = 2) -> nn.Module:
    """A recurrent causal language model."""
    return _build(seed, lambda: Lstm(hidden, layers))


def batch(model: nn.Module, size: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """Inputs and labels for any of the models here (also wrapped by PEFT, or in another dtype)."""
    random = torch.Generator().manual_seed(seed)
    name = type(_bare(model)).__name__
    if name in ("ViTForImageClassification", "ResNet"):
        images = torch.randn(size, 3, 16, 16, generator=random).to(_dtype(model))
        return {"pixel_values": images, "labels": torch.randint(CLASSES, (size,), generator=random)}
    tokens = torch.randint(3, VOCAB, (size, 12), generator=random)
    if name == "BertForSequenceClassification":
        return {"input_ids": tokens, "labels": torch.randint(CLASSES, (size,), generator=random)}
    return {"input_ids": tokens, "labels": tokens.clone()}


class ResNet(nn.Module):
    """Stem, one plain and one strided residual block, and a linear head."""

    def __init__(self, width: int):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.blocks = nn.Sequential(ResidualBlock(width, width, 1), ResidualBlock(width, 2 * width, 2))
        self.fc = nn.Linear(2 * width, CLASSES)

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None) -> Output:
        x = self.blocks(F.relu(self.norm(self.stem(pixel_values))))
        logits = self.fc(x.mean((2, 3)))
        return Output(None if labels is None else F.cross_entropy(logits, labels), logits)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut (a 1x1 convolution where the shape changes)."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class Lstm(nn.Module):
    """Embedding, LSTM, linear output layer."""

    def __init__(self, hidden: int, layers: int):
        super().__init__()
        self.embedding = nn.Embedding(VOCAB, hidden)
        self.lstm = nn.LSTM(hidden, hidden, layers, batch_first=True)
        self.out = nn.Linear(hidden, VOCAB)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Output:
        logits = self.out(self.lstm(self.embedding(input_ids))[0])
        if labels is None:
            return Output(None, logits)
        return Output(F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()), logits)


def _build(seed: int, make) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().train()


def _decoder(hidden: int, layers: int) -> dict:
    return {
        "vocab_size": VOCAB,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
    }


def _encoder(hidden: int, layers: int) -> dict:
    return {
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }


def _bare(model: nn.Module) -> nn.Module:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _dtype(model: nn.Module) -> torch.dtype:
    return next(p.dtype for p in model.parameters() if p.is_floating_point())
