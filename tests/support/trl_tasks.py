"""A task for each trainer of TRL: a tiny model, a tokenizer made here, rows to learn, and settings for a few steps."""

import copy
from dataclasses import dataclass, field
from functools import cache

import torch
import trl
from datasets import Dataset
from transformers import LlamaConfig, LlamaForSequenceClassification

from hybridopt.integrations.trainer import HybridTrainerMixin
from support.models import tiny_llama

WORDS = 90
TEMPLATE = "{% for m in messages %}{{ m['content'] }} {{ eos_token }}{% endfor %}"


@cache
def tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, WORDS)}}
    words = Tokenizer(WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", bos_token="<s>")
    made.chat_template = TEMPLATE
    return made


def text(start, length=6, step=1):
    return " ".join(f"w{3 + (start + i * step) % (WORDS - 3)}" for i in range(length))


def rewards(completions, **_):
    """The share of words with low numbers: what a policy can learn from any of its own texts."""
    words = [[int(w[1:]) for w in one.split() if w[1:].isdigit()] for one in completions]
    return [sum(n < WORDS // 2 for n in one) / max(len(one), 1) for one in words]


def _rows(count=8):
    good, bad = [text(5 * i) for i in range(count)], [text(5 * i, step=7) for i in range(count)]
    prompts = [f"{text(5 * i, 3)} " for i in range(count)]
    return {
        "pairs": {"prompt": prompts, "completion": good},
        "preferences": {"prompt": prompts, "chosen": good, "rejected": bad},
        "chosen": {"chosen": good, "rejected": bad},
        "labelled": {"prompt": prompts * 2, "completion": good + bad, "label": [True] * count + [False] * count},
        "prompts": {"prompt": prompts},
    }


@dataclass(frozen=True)
class Task:
    """A trainer of TRL, with what it trains on, and what its settings need beside the usual ones."""

    trainer: type
    config: type
    rows: str
    settings: dict = field(default_factory=dict)
    given: dict = field(default_factory=dict)  # to the trainer


GENERATES = {"num_generations": 4, "per_device_train_batch_size": 4, "max_completion_length": 6, "beta": 0.0}
REWARDED = {"reward_funcs": rewards}
TASKS = {
    "sft": Task(trl.SFTTrainer, trl.SFTConfig, "pairs"),
    "dpo": Task(trl.DPOTrainer, trl.DPOConfig, "preferences"),
    "reward": Task(trl.RewardTrainer, trl.RewardConfig, "chosen"),
    "kto": Task(trl.KTOTrainer, trl.KTOConfig, "labelled", {"per_device_train_batch_size": 16}),
    "grpo": Task(trl.GRPOTrainer, trl.GRPOConfig, "prompts", GENERATES | {"num_iterations": 2}, REWARDED),
    "rloo": Task(trl.RLOOTrainer, trl.RLOOConfig, "prompts", GENERATES, REWARDED),
}
USUAL = dict(
    max_steps=6,
    per_device_train_batch_size=8,  # all rows, so that losses can be compared
    max_grad_norm=0.0,
    lr_scheduler_type="constant",
    logging_steps=1,
    save_strategy="no",
    bf16=False,
    gradient_checkpointing=False,
    use_cpu=True,
    report_to="none",
    disable_tqdm=True,
    seed=0,
)


@cache
def _data(rows):
    return Dataset.from_dict(_rows()[rows])


@cache
def _scored():
    torch.manual_seed(0)
    shape = copy.deepcopy(tiny_llama().config.to_dict())
    shape.pop("architectures", None)
    return LlamaForSequenceClassification(LlamaConfig(**shape | {"num_labels": 1, "pad_token_id": 0}))


def model_of(name):
    """A model for a task, the same each time."""
    if name == "reward":
        return copy.deepcopy(_scored())
    return tiny_llama(pad_token_id=0, bos_token_id=1, eos_token_id=2)


def tuner(name, folder, model=None, **changes):
    """A trainer of TRL with the mixin; of `changes`, those that its configuration has go there."""
    task = TASKS[name]
    known = task.config.__dataclass_fields__
    settings = USUAL | task.settings | {key: changes.pop(key) for key in list(changes) if key in known}
    if task.rows in ("preferences", "labelled") and not hasattr(model, "peft_config"):
        changes.setdefault("ref_model", model_of(name))
    kind = type("Tuner", (HybridTrainerMixin, task.trainer), {})
    return kind(
        model=model_of(name) if model is None else model,
        args=task.config(str(folder), **settings),
        train_dataset=_data(task.rows),
        processing_class=tokenizer(),
        **task.given,
        **changes,
    )
