"""A training run as plain data; the names of its fields are the keys of run.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["AUTO", "Data", "LoraSettings", "Method", "Output", "Run", "Train"]

AUTO = "auto"


@dataclass(frozen=True)
class LoraSettings:
    """LoRA adapters.

    Args:
        r: rank.
        alpha: scale; updates are multiplied by alpha / r. None: twice the rank.
        targets: "all-linear", or names of modules.
        dropout: of what goes into the adapters.
        modules_to_save: names of modules trained and saved in full beside the adapters.
    """

    r: int = 16
    alpha: float | None = None
    targets: str | tuple[str, ...] = "all-linear"
    dropout: float = 0.0
    modules_to_save: tuple[str, ...] = ()


@dataclass(frozen=True)
class Method:
    """How the weights are trained.

    Args:
        policy: "auto" for the first way that fits beside the margin, a name of `hybridopt policies`, or a .json.
        options: of the policy.
        lora: adapters; None: all weights are trained.
        quantization: scheme of the base, such as "nf4"; None: not quantized.
        release: how gradients are released: "accumulate" or "fused".
    """

    policy: str = AUTO
    options: Mapping[str, Any] = field(default_factory=dict)
    lora: LoraSettings | None = None
    quantization: str | None = None
    release: str = "accumulate"


@dataclass(frozen=True)
class Data:
    """What is learnt from.

    Args:
        train: files (jsonl, json, csv, tsv, parquet, txt), folders of them, or hub ids ("org/name", "org/name:split").
        eval: a share of the training rows from 0 to 1, a file, or a hub id; None: nothing is held out.
        format: "auto" by the columns, or "text", "prompt_completion", "messages", "preference", "prompt", "labels".
        columns: name that the format has for a column -> name that the data has.
        template: "auto" for the tokenizer's own, or the path of a .jinja file.
        loss_on: "auto", "all", "completion" (the answer alone) or "assistant" (all the assistant's turns).
        packing: whether several examples share a sequence; "auto": only for task "text".
        max_length: tokens of a sequence, longer examples are cut; "auto": 2048, or all the model has room for.
    """

    train: tuple[str, ...] = ()
    eval: float | str | None = None
    format: str = AUTO
    columns: Mapping[str, str] = field(default_factory=dict)
    template: str = AUTO
    loss_on: str = AUTO
    packing: bool | str = AUTO
    max_length: int | str = AUTO


@dataclass(frozen=True)
class Train:
    """How long, how fast, and what is noted on the way.

    Args:
        epochs: passes over the training rows.
        max_steps: steps at most; None: as epochs say.
        batch: sequences of a forward pass.
        accumulate: passes of a step.
        lr: learning rate; "auto": what the chosen way starts from.
        schedule: of the learning rate: "cosine", "linear", "constant", ... as transformers names them.
        warmup: share of the steps in which the rate rises.
        weight_decay: decoupled, as AdamW's.
        clip: largest norm of all gradients; None: not clipped.
        dtype: of weights that are not quantized: "auto" (the model's own), "bf16", "fp16" or "fp32".
        checkpointing: whether activations are computed again in the backward pass; "auto": where it is needed.
        chunk: tokens of which the loss is computed at a time; None: all at once; "auto": where it is needed.
        seed: of every random choice.
        log_every: steps from one line of the log to the next.
        eval_every: share of all steps below 1, steps from 1; None: at the end alone.
        save_every: share of all steps below 1, steps from 1; None: no checkpoints.
        keep: checkpoints that are kept, the newest.
        early_stopping: evaluations without a better loss after which training ends; None: never.
        report_to: "tensorboard", "wandb", ... beside log.jsonl.
    """

    epochs: float = 1.0
    max_steps: int | None = None
    batch: int = 1
    accumulate: int = 16
    lr: float | str = AUTO
    schedule: str = "cosine"
    warmup: float = 0.03
    weight_decay: float = 0.0
    clip: float | None = 1.0
    dtype: str = AUTO
    checkpointing: bool | str = AUTO
    chunk: int | str | None = AUTO
    seed: int = 0
    log_every: int = 1
    eval_every: float | None = 0.1
    save_every: float | None = 0.1
    keep: int = 2
    early_stopping: int | None = None
    report_to: tuple[str, ...] = ()


@dataclass(frozen=True)
class Output:
    """What is left behind.

    Args:
        folder: of everything that is written.
        merge: whether adapters are also merged into the base, in a folder "merged" beneath.
        push: id of a hub repository for the result, "org/name"; None: it stays here.
    """

    folder: str = "out"
    merge: bool = False
    push: str | None = None


@dataclass(frozen=True)
class Run:
    """One training run.

    Args:
        model: a folder, or an id on the hub.
        task: "auto" by the format of the data, or a name: sft, dpo, reward, grpo, classify, text.
        task_options: of the task, such as beta of dpo.
        gpu: a card ("4090"), a size ("24GiB"), or "auto": the card of this machine, or without one its memory.
        margin: share of that memory which is kept free.
        method: how the weights are trained.
        data: what is learnt from.
        train: how long and how fast.
        output: what is left behind.
    """

    model: str
    task: str = AUTO
    task_options: Mapping[str, Any] = field(default_factory=dict)
    gpu: str = AUTO
    margin: float = 0.04
    method: Method = field(default_factory=Method)
    data: Data = field(default_factory=Data)
    train: Train = field(default_factory=Train)
    output: Output = field(default_factory=Output)
