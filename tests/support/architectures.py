"""Tiny random models of many architectures, by name; each builder makes one."""

from collections.abc import Callable

import torch
from torch import nn

SIZE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = SIZE | {"vocab_size": 32}
DECODER = TEXT | {"num_key_value_heads": 1}
SEQ2SEQ = {"vocab_size": 64, "d_model": 16, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32}
SEQ2SEQ |= {"decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
SPEECH = TEXT | {"conv_dim": (8, 8), "conv_stride": (2, 2), "conv_kernel": (3, 3)}
SPEECH |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "classifier_proj_size": 8}
IMAGE = {"image_size": 8, "patch_size": 4}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
WHISPER = SEQ2SEQ | TOKENS | {"num_mel_bins": 8, "max_source_positions": 16, "max_target_positions": 16}
CLIP = {"text_config": TEXT, "vision_config": SIZE | IMAGE, "projection_dim": 8}
GPT2 = {"vocab_size": 32, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
OPT = {"vocab_size": 32, "hidden_size": 16, "ffn_dim": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SWIN = {"image_size": 16, "patch_size": 2, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2], "window_size": 2}
T5 = {"vocab_size": 32, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
DEBERTA = TEXT | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 8, "head_dim": 8}
MAMBA = {"vocab_size": 32, "hidden_size": 16, "state_size": 4, "num_hidden_layers": 2}

# name: (class of the model, class of its configuration, settings)
LIBRARY = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", DECODER),
    "llama tied": ("LlamaForCausalLM", "LlamaConfig", DECODER | {"tie_word_embeddings": True}),
    "llama classifier": ("LlamaForSequenceClassification", "LlamaConfig", DECODER | {"pad_token_id": 0}),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", DECODER | {"head_dim": 8}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", DECODER | {"head_dim": 8}),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "opt": ("OPTForCausalLM", "OPTConfig", OPT | {"max_position_embeddings": 32, "word_embed_proj_dim": 16}),
    "falcon": ("FalconForCausalLM", "FalconConfig", TEXT | {"bias": True}),
    "bert": ("BertForSequenceClassification", "BertConfig", TEXT),
    "bert masked": ("BertForMaskedLM", "BertConfig", TEXT),
    "deberta": ("DebertaForSequenceClassification", "DebertaConfig", DEBERTA),
    "deberta v2": ("DebertaV2ForSequenceClassification", "DebertaV2Config", DEBERTA),
    "albert": ("AlbertForSequenceClassification", "AlbertConfig", TEXT | {"embedding_size": 8}),
    "t5": ("T5ForConditionalGeneration", "T5Config", T5),
    "bart": ("BartForConditionalGeneration", "BartConfig", SEQ2SEQ),
    "bart classifier": ("BartForSequenceClassification", "BartConfig", SEQ2SEQ),
    "vit": ("ViTForImageClassification", "ViTConfig", SIZE | IMAGE),
    "swin": ("SwinForImageClassification", "SwinConfig", SWIN),
    "convnext": (
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    ),
    "resnet": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]},
    ),
    "wav2vec2": ("Wav2Vec2ForCTC", "Wav2Vec2Config", SPEECH),
    "wav2vec2 classifier": ("Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", SPEECH),
    "whisper": ("WhisperForConditionalGeneration", "WhisperConfig", WHISPER),
    "clip": ("CLIPModel", "CLIPConfig", CLIP),
    "mamba": ("MambaForCausalLM", "MambaConfig", MAMBA),
    "mixtral": ("MixtralForCausalLM", "MixtralConfig", DECODER | {"num_local_experts": 2}),
    "qwen3 moe": ("Qwen3MoeForCausalLM", "Qwen3MoeConfig", DECODER | EXPERTS),
}


class Block(nn.Module):
    """Of a vision transformer, as image libraries write it."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.norm1, self.qkv, self.proj = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.gamma = nn.Parameter(torch.ones(width))


class ImageTransformer(nn.Module):
    """A vision transformer whose blocks lie in a Sequential; with no classes it ends in its last block."""

    def __init__(self, classes: int = 3):
        super().__init__()
        self.cls_token, self.pos_embed = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(1, 5, 8))
        self.patch_embed = nn.Conv2d(3, 8, 4, 4)
        self.blocks, self.norm = nn.Sequential(Block(), Block()), nn.LayerNorm(8)
        self.head = nn.Linear(8, classes) if classes else nn.Identity()


class Translator(nn.Module):
    """Torch's own transformer between an embedding and an output layer."""

    def __init__(self):
        super().__init__()
        self.emb, self.out = nn.Embedding(16, 8), nn.Linear(8, 16)
        self.enc = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)


class Tower(nn.Module):
    """A layer to begin with and a list of equal ones."""

    def __init__(self, kind: type = nn.ModuleList):
        super().__init__()
        layers = [nn.Linear(8, 8) for _ in range(3)]
        self.stem, self.layers = nn.Linear(4, 8), kind(layers) if kind is nn.ModuleList else kind(*layers)


OWN = {
    "sequence": lambda: nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 4)),
    "equal sequence": lambda: nn.Sequential(*[nn.Linear(8, 8) for _ in range(3)]),
    "image transformer": ImageTransformer,
    "headless image transformer": lambda: ImageTransformer(0),
    "translator": Translator,
    "tower": Tower,
    "tower in sequence": lambda: Tower(nn.Sequential),
}


def build(name: str) -> nn.Module:
    """Return a tiny model of this architecture, all of it trainable, with the same weights every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (OWN[name]() if name in OWN else _of_library(*LIBRARY[name])).requires_grad_(True)


def _of_library(model: str, config: str, settings: dict) -> nn.Module:
    import transformers

    made: Callable[..., nn.Module] = getattr(transformers, model)
    return made(getattr(transformers, config)(**settings))
