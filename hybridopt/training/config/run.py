"""A training run as plain data; the names of its fields are the keys of run.yaml."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from ...core.budget import MARGIN
from ...model.placement.placement import BASES
from ...planning.limits import PARALLEL
from .choices import AUTO, DTYPES, FORMATS, LOSSES, REPORTS, SCHEDULES, policies, releases, schemes, tasks
from .kinds import Count, Flag, Names, Number, OneOf, Options, Short, Text, Texts
from .mixed_kinds import HubName, Interval, Memory, ShareOrText

__all__ = ["AUTO", "Data", "LoraSettings", "Method", "Output", "PlacementSettings", "Run", "Train"]

# What a field may be is said by its annotation: the type, whether null and "auto" are allowed, and a kind of values
# (kinds.py) with their limits. What it means stands in `Args`. Reading, writing and the table of keys follow both.


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

    r: Annotated[int, Count(1, 2**16)] = 16
    alpha: Annotated[float | None, Number(open_low=True)] = None
    targets: Annotated[str | tuple[str, ...], Texts(single=True, needed=True)] = "all-linear"
    dropout: Annotated[float, Number(0, 1, open_high=True)] = 0.0
    modules_to_save: Annotated[tuple[str, ...], Texts()] = ()


@dataclass(frozen=True)
class PlacementSettings:
    """Where the weights of layers rest between their uses.

    Args:
        base: "host" (its memory), "disk" (their files), "auto" (as near as memory allows), or "device".
        slots: layers that are on the device at a time.
        resident: layers that stay on the device, the first ones.
        ahead: layers that are fetched before they are asked for; it has to be below `slots`.
        cache: a folder for weights that no file holds as they are used, such as quantized ones; None: the user's own.
    """

    base: Annotated[str, OneOf(lambda: BASES)] = "host"
    slots: Annotated[int, Count(2)] = 3
    resident: Annotated[int, Count()] = 0
    ahead: Annotated[int, Count()] = 1
    cache: Annotated[str | None, Text()] = None


@dataclass(frozen=True)
class Method:
    """How the weights are trained.

    Args:
        policy: "auto" for the first way that fits beside the margin, a name of `hybridopt policies`, or a .json.
        options: of the policy.
        lora: adapters; None: all weights are trained.
        quantization: scheme of the base, such as "nf4"; None: not quantized.
        release: how gradients are released: "accumulate" or "fused".
        placement: where the weights of layers rest between their uses; None: on the device.
        activations: what trained linear layers keep of their inputs: "wta-crs", "wta-crs:share=0.2"; None: everything.
    """

    policy: Annotated[str, OneOf(policies, ".json", "or the path of a .json")] = AUTO
    options: Annotated[Mapping[str, Any], Options()] = field(default_factory=dict)
    lora: Annotated[LoraSettings | None, Short("r")] = None
    quantization: Annotated[str | None, OneOf(schemes)] = None
    release: Annotated[str, OneOf(releases)] = "accumulate"
    placement: Annotated[PlacementSettings | None, Short("base")] = None
    activations: Annotated[str | None, Text()] = None


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

    train: Annotated[tuple[str, ...], Texts(needed=True)] = ()
    eval: Annotated[float | str | None, ShareOrText()] = None
    format: Annotated[str, OneOf(lambda: (AUTO, *FORMATS))] = AUTO
    columns: Annotated[Mapping[str, str], Names()] = field(default_factory=dict)
    template: Annotated[str, Text()] = AUTO
    loss_on: Annotated[str, OneOf(lambda: LOSSES)] = AUTO
    packing: Annotated[bool | str, Flag()] = AUTO
    max_length: Annotated[int | str, Count(1, 2**27)] = AUTO


@dataclass(frozen=True)
class Train:
    """How long, how fast, and what is noted on the way.

    Args:
        epochs: passes over the training rows.
        max_steps: steps at most; None: as epochs say.
        batch: sequences of a forward pass.
        accumulate: passes of a step.
        lr: learning rate; "auto": where the policy is started from, as `hybridopt policies` says.
        lr_batch: examples of a step for which `lr` is right; this run's rate follows from it. None: as `lr` says.
        schedule: of the learning rate: "cosine", "linear", "constant", ... as transformers names them.
        warmup: share of the steps, rounded up, in which the rate rises: the first of w such steps has lr / w.
        weight_decay: decoupled, as AdamW's.
        clip: largest norm of all gradients; None: not clipped.
        dtype: of weights that are not quantized: "auto" (the model's own), "bf16", "fp16" or "fp32".
        checkpointing: whether activations are computed again in the backward pass; "auto": where it is needed.
        seed: of every random choice.
        log_every: steps from one line of the log to the next.
        eval_every: share of all steps below 1, steps from 1; None: at the end alone.
        save_every: share of all steps below 1, steps from 1; None: no checkpoints.
        keep: checkpoints that are kept, the newest.
        early_stopping: evaluations without a better loss after which training ends; None: never.
        report_to: "tensorboard", "wandb", ... beside log.jsonl.
    """

    epochs: Annotated[float, Number(open_low=True)] = 1.0
    max_steps: Annotated[int | None, Count(1)] = None
    batch: Annotated[int, Count(1, 2**20)] = 1
    accumulate: Annotated[int, Count(1, 2**40)] = 16
    lr: Annotated[float | str, Number(open_low=True)] = AUTO
    lr_batch: Annotated[int | None, Count(1, 2**31)] = None
    schedule: Annotated[str, OneOf(lambda: SCHEDULES)] = "cosine"
    warmup: Annotated[float, Number(0, 1, open_high=True)] = 0.03
    weight_decay: Annotated[float, Number()] = 0.0
    clip: Annotated[float | None, Number(open_low=True)] = 1.0
    dtype: Annotated[str, OneOf(lambda: DTYPES)] = AUTO
    checkpointing: Annotated[bool | str, Flag()] = AUTO
    seed: Annotated[int, Count(0, 2**32 - 1)] = 0
    log_every: Annotated[int, Count(1)] = 1
    eval_every: Annotated[float | None, Interval()] = 0.1
    save_every: Annotated[float | None, Interval()] = 0.1
    keep: Annotated[int, Count(1)] = 2
    early_stopping: Annotated[int | None, Count(1)] = None
    report_to: Annotated[tuple[str, ...], Texts(lambda: REPORTS)] = ()


@dataclass(frozen=True)
class Output:
    """What is left behind.

    Args:
        folder: of everything that is written.
        merge: whether adapters are also merged into the base, in a folder "merged" beneath.
        push: id of a hub repository for the result, "org/name"; None: it stays here.
    """

    folder: Annotated[str, Text()] = "out"
    merge: Annotated[bool, Flag()] = False
    push: Annotated[str | None, HubName()] = None


@dataclass(frozen=True)
class Run:
    """One training run.

    Args:
        model: a folder, or an id on the hub.
        task: "auto" by the format of the data, or a name: sft, dpo, reward, grpo, classify, text.
        task_options: of the task, such as beta of dpo.
        gpu: a card ("4090"), a size ("24GiB"), or "auto": the card of this machine, or without one its memory.
        margin: share of that memory which is kept free.
        parallel: how processes share the model: "ddp", each has all of it, "fsdp", each has its rows (FSDP2); "auto":
            the first, if it fits.
        method: how the weights are trained.
        data: what is learnt from.
        train: how long and how fast.
        output: what is left behind.
    """

    model: Annotated[str, Text()]
    task: Annotated[str, OneOf(tasks)] = AUTO
    task_options: Annotated[Mapping[str, Any], Options()] = field(default_factory=dict)
    gpu: Annotated[str, Memory()] = AUTO
    margin: Annotated[float, Number(0, 1, open_high=True)] = MARGIN
    parallel: Annotated[str, OneOf(lambda: (AUTO, *PARALLEL))] = AUTO
    method: Annotated[Method, Short("policy")] = field(default_factory=Method)
    data: Annotated[Data, Short("train")] = field(default_factory=Data)
    train: Train = field(default_factory=Train)
    output: Annotated[Output, Short("folder")] = field(default_factory=Output)
