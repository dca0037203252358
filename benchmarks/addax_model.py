"""A small causal language model of real text that knows what a review is, made once and kept in a cache."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import addax_data as data
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, get_cosine_with_min_lr_schedule_with_warmup

CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "hybridopt-benchmarks"


@dataclass(frozen=True)
class Recipe:
    """What the model is and how it came to be; the warm start's reviews are those before `warm_reviews`."""

    hidden: int = 128
    layers: int = 2
    intermediate: int = 344
    heads: int = 4
    vocabulary: int = 2048
    sequence: int = 256
    batch: int = 16
    steps: int = 1500
    lr: float = 3e-3
    warm_steps: int = 300
    warm_batch: int = 32
    warm_lr: float = 1e-3
    warm_reviews: int = 20_000
    fewest_words: int = 8


def network(recipe: Recipe) -> LlamaForCausalLM:
    """A Llama with random weights; input and output embedding are one."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocabulary,
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            max_position_embeddings=recipe.sequence,
            tie_word_embeddings=True,
            use_cache=False,
        )
    )


def answer_logits(model: nn.Module, batch: data.Examples) -> Tensor:
    """Logits [count, 2] of the two answers after the last token of each example."""
    hidden = model.model(input_ids=batch.ids).last_hidden_state
    last = hidden[torch.arange(len(batch)), batch.lengths - 1]
    return model.lm_head(last).gather(1, batch.answers)


def answer_loss(model: nn.Module, batch: data.Examples) -> Tensor:
    """Cross-entropy between the two answers, in fp32."""
    return nn.functional.cross_entropy(answer_logits(model, batch).float(), batch.labels)


def train(model: nn.Module, lr: float, steps: int, losses: Iterator[Callable[[], Tensor]], advance: Callable) -> float:
    """AdamW with warmup and cosine over the losses; return the mean of the last fiftieth of them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.01)
    schedule = get_cosine_with_min_lr_schedule_with_warmup(optimizer, steps // 20, steps, min_lr_rate=0.1)
    seen = []
    for loss_of in islice(losses, steps):
        loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        seen.append(loss.item())
        advance()
    tail = seen[-max(1, steps // 50) :]
    return sum(tail) / len(tail)


def language_losses(model: nn.Module, windows: Tensor, size: int) -> Iterator[Callable[[], Tensor]]:
    """Next-token losses over windows [count, sequence] in random order."""
    generator = torch.Generator().manual_seed(0)
    while True:
        for rows in torch.randperm(len(windows), generator=generator)[: len(windows) // size * size].split(size):
            ids = windows[rows].long()
            yield lambda ids=ids: model(input_ids=ids, labels=ids).loss


def warm_losses(model: nn.Module, tokenizer, reviews: list[data.Review], recipe: Recipe):
    """Losses of the other questions in turn, over short labelled reviews."""
    asked = [data.asking(tokenizer, reviews, question, recipe.sequence) for question in data.WARM]
    kinds = [examples.batches(recipe.warm_batch, seed) for seed, examples in enumerate(asked)]
    while True:
        for batches in kinds:
            yield lambda batch=next(batches): answer_loss(model, batch)


def windows(tokenizer, texts: list[str], sequence: int) -> Tensor:
    """Token ids of the texts on end, [count, sequence]; what fills no window is left out."""
    ids = torch.cat([torch.tensor(tokenizer.encode(text).ids, dtype=torch.int32) for text in texts])
    return ids[: len(ids) // sequence * sequence].view(-1, sequence)


def make(recipe: Recipe, tokenizer, texts: list[str], reviews: list[data.Review], advance: Callable) -> nn.Module:
    """Pre-train on the texts, then warm up on the labelled reviews."""
    model = network(recipe)
    text = windows(tokenizer, texts, recipe.sequence)
    train(model, recipe.lr, recipe.steps, language_losses(model, text, recipe.batch), advance)
    train(model, recipe.warm_lr, recipe.warm_steps, warm_losses(model, tokenizer, reviews, recipe), advance)
    return model


def ready(folder: Path, recipe: Recipe, bar: Callable[[int], Callable], cache: Path = CACHE) -> Path:
    """Return where the model of this recipe and text lies; made first if it is not there yet.

    `bar` is told how many steps that takes, and returns what is called after each.
    """
    place = cache / f"addax-{digest(folder, recipe)}"
    if not place.exists():
        reviews = data.reviews(folder, "train", 1)
        texts = list(data.plain(folder, reviews))
        tokenizer = data.tokenizer_of(texts, recipe.vocabulary)
        warm = data.reviews(folder, "train", recipe.fewest_words)[: recipe.warm_reviews]
        model = make(recipe, tokenizer, texts, warm, bar(recipe.steps + recipe.warm_steps))
        publish(place, model, tokenizer)
    return place


def digest(folder: Path, recipe: Recipe) -> str:
    """Twelve hex digits that change with the recipe, the questions of the warm start, and any byte of the text."""
    text = b"".join((folder / name).read_bytes() for name in (*data.PLAIN, f"sst2/{data.SST2['train']}"))
    return sha256(repr((asdict(recipe), data.WARM)).encode() + text).hexdigest()[:12]


def publish(place: Path, model: nn.Module, tokenizer) -> None:
    """Put weights and tokenizer there, whole or not at all."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=place.parent) as draft:
        inside = Path(draft) / place.name
        inside.mkdir()
        save_file(dict(model.named_parameters()), inside / "model.safetensors")
        tokenizer.save(str(inside / "tokenizer.json"))
        if not place.exists():  # another process was faster otherwise, with the same bits
            inside.rename(place)


def load(place: Path, recipe: Recipe) -> nn.Module:
    """The model that lies there."""
    model = network(recipe)
    model.load_state_dict(load_file(place / "model.safetensors"), strict=False)
    return model


def load_tokenizer(place: Path) -> Tokenizer:
    return Tokenizer.from_file(str(place / "tokenizer.json"))
