"""The rows of the fine-tuning tables: what `wrap` is given, and the learning rates that searches start from."""

from dataclasses import asdict, dataclass, field, fields

from torch import nn

import hybridopt
from hybridopt.core.registry import find
from hybridopt.parts import Linear

from .budget import Budget
from .task import Task

MODES = {"full": "full", "lora": "LoRA", "lora-nf4": "LoRA, nf4"}


@dataclass(frozen=True)
class Method:
    """What trains.

    label: of its row. policy: its name. full, lora: the middle of the learning rates that the search starts from, by
    mode; None: not in that mode. options: of the policy. window: a share of the run, if not the task's.
    """

    label: str
    policy: str
    full: float | None
    lora: float | None
    options: dict = field(default_factory=dict)
    window: float | None = None

    def centre(self, mode: str) -> float | None:
        """Return the middle of the learning rates tried first; None where the method is not tried."""
        return self.full if mode == "full" else self.lora

    def settings(self, budget: Budget) -> dict:
        """Return the policy's name and options in a run of a task."""
        has = {option.name for option in fields(find("policies", self.policy))}
        window = budget.window if self.window is None else round(self.window * budget.steps)
        windows = {"update_gap": window} if "update_gap" in has else {}
        falling = {"density": Linear(0.25, 0.05, budget.steps)} if self.policy == "adafrugal" else {}
        return {"policy": self.policy} | windows | falling | self.options

    def wrap(self, model: nn.Module, task: Task, mode: str, seed: int) -> nn.Module:
        """Give the model this method's policy, and the mode's adapters and quantization.

        Args:
            model: is changed.
            task: says how long the run is, and what LoRA adapts.
            mode: one of MODES.
            seed: of adapters, and of subspaces.
        """
        settings = self.settings(task.budget)
        if mode == "full":
            return hybridopt.wrap(model, seed=seed, **settings)
        from peft import LoraConfig

        base = {"quantization": "nf4"} if mode == "lora-nf4" else {}
        return hybridopt.wrap(model, seed=seed, peft_config=LoraConfig(**task.lora), **base, **settings)


def settings_of(method: Method, task: Task, mode: str) -> dict:
    """Return everything besides learning rate and seed that decides a run, as JSON has it."""
    made = method.settings(task.budget)
    said = {key: asdict(value) if isinstance(value, Linear) else value for key, value in made.items()}
    return task.settings() | {"options": said, "lora": None if mode == "full" else task.lora}


TENTH = {"free_lr_scale": 0.1}
BLOCK = {"split": "block"}
METHODS = {
    "adamw": Method("AdamW", "adamw", 3e-4, 3e-3),
    "frugal": Method("FRUGAL ρ=0.25", "frugal", 3e-4, 3e-3),
    "frugal-tenth": Method("FRUGAL ρ=0.25, free_lr_scale=0.1", "frugal", 1e-3, 1e-2, TENTH),
    "signsgd": Method("signSGD", "signsgd", 3e-4, 3e-3),
    "adam_mini": Method("Adam-mini", "adam_mini", 3e-4, 3e-3),
    "adam_mini-whole": Method('Adam-mini, value_blocks="whole"', "adam_mini", 3e-4, 3e-3, {"value_blocks": "whole"}),
    "came": Method("CAME, bias_correction=False", "came", 1e-4, 1e-3, {"bias_correction": False}),
    "came-corrected": Method("CAME", "came", 3e-4, 3e-3, {"bias_correction": True}),
    "badam": Method("BAdam, windows of 1/6 of the run", "badam", 1e-3, 3e-3, {}, 1 / 6),
    "badam-third": Method("BAdam, 1/3", "badam", 1e-3, 3e-3, {}, 1 / 3),
    "badam-two": Method("BAdam, 2/3", "badam", 1e-3, 3e-3, {}, 2 / 3),
    "badam-one": Method("BAdam, the whole run", "badam", 1e-3, 3e-3, {}, 1),
    "frugal-block-tenth": Method("FRUGAL ρ=0.25, block, free_lr_scale=0.1", "frugal", 1e-3, 1e-2, BLOCK | TENTH),
    "galore": Method("GaLore ρ=0.25", "galore", 1e-3, 1e-2),
    "frugal-0": Method("FRUGAL ρ=0", "frugal", 3e-4, 3e-3, {"density": 0.0}),
    "frugal-0-tenth": Method("FRUGAL ρ=0, free_lr_scale=0.1", "frugal", 1e-3, 1e-2, {"density": 0.0} | TENTH),
    "frugal-whiten": Method("FRUGAL ρ=0.25, whiten", "frugal", 3e-4, 3e-3, {"free": "whiten"}),
    "adalomo": Method("AdaLomo (Adafactor)", "adalomo", 1e-2, 3e-2),
    "muon": Method("Muon", "muon", 1e-3, 3e-3),
    "lion": Method("Lion", "lion", 1e-4, 1e-3),
    "adafactor-unscaled": Method(
        "Adafactor, scale_parameter=False", "adafactor", 3e-4, 3e-3, {"scale_parameter": False}
    ),
    "apollo": Method("APOLLO", "apollo", 1e-3, 1e-2),
    "apollo_mini": Method("APOLLO-Mini", "apollo_mini", 3e-4, 3e-3),
    "qgalore": Method("Q-GaLore", "qgalore", 1e-3, 1e-2),
    "adafrugal": Method("AdaFRUGAL", "adafrugal", 3e-4, 3e-3),
    "sinkgd": Method("SinkGD", "sinkgd", 3e-4, 3e-3),
    "swan": Method("SWAN", "swan", 3e-4, 3e-3),
    "scale": Method("SCALE", "scale", 3e-4, 3e-3),
    "sgd": Method("SGD with momentum", "sgd", 1e-1, 1e-1),
    "lomo": Method("SGD (LOMO, IP-SGD)", "lomo", 3e-1, 1.0),
    "adamw-int8": Method("AdamW, 8-bit state", "adamw", 3e-4, 3e-3, {"codec": "int8"}),
    "addax": Method("Addax", "addax", 3e-1, 1.0, {"alpha": 1e-3}),
    "mezo": Method("MeZO", "mezo", 1e-4, 1e-3),
    "fzoo": Method("FZOO", "fzoo", 3e-5, 3e-4),
    "lezo": Method("LeZO", "lezo", 1e-4, 1e-3),
    "subzero": Method("SubZero", "subzero", 1e-4, 1e-3),
    "zo_momentum": Method("ZO-SGD with momentum", "zo_momentum", 1e-5, 1e-4),
    "zo_signsgd": Method("ZO-signSGD", "zo_signsgd", 1e-4, 1e-3),
    "zo_adam": Method("ZO-Adam", "zo_adam", 3e-4, 3e-3),
    "zo_conservative": Method("ZO-SGD-Cons", "zo_conservative", 1e-4, 1e-3),
}

FRUGALS = ("adamw", "frugal", "frugal-tenth")
CAMES = ("came-corrected", "came")
ASKED = (*CAMES, "adam_mini", "badam", "badam-two")
OTHERS = ("signsgd", "galore", "muon", "adalomo")
WINDOWS = ("badam-third", "badam-one", "adam_mini-whole")
LOSSES = ("mezo", "fzoo", "lezo", "subzero", "zo_momentum", "zo_signsgd", "zo_adam", "zo_conservative")
GRADIENTS = tuple(name for name in METHODS if name not in LOSSES)
DECISIVE = (*FRUGALS, "signsgd", "galore", "badam")
TEN = (*DECISIVE, "frugal-whiten", "adam_mini", "came-corrected", "adalomo")

# Which methods in which mode on which task, in the order in which they are run: what decides most comes first.
PLAN = (
    ("question_types", "full", CAMES),
    ("question_types", "full", FRUGALS),
    ("question_types", "full", ASKED),
    ("question_types", "lora", FRUGALS),
    ("sst2", "full", FRUGALS),
    ("question_types", "full", OTHERS),
    ("sst2", "full", ("badam-two",)),
    ("sst2", "full", ASKED),
    ("question_types", "lora", (*ASKED, *OTHERS)),
    ("question_types", "full", WINDOWS),
    ("instruct", "full", DECISIVE),
    ("sst2", "full", (*OTHERS, "frugal-0-tenth", "frugal-block-tenth")),
    ("question_types", "full", GRADIENTS),
    ("question_types", "lora", GRADIENTS),
    ("instruct", "lora", DECISIVE),
    ("sst2", "full", WINDOWS),
    ("sst2", "lora", DECISIVE),
    ("instruct", "full", TEN),
    ("sst2", "lora-nf4", ("frugal-tenth",)),
    ("boolq", "full", DECISIVE),
    ("boolq", "full", TEN),
    ("question_types", "full", LOSSES),
    ("question_types", "lora", LOSSES),
    ("boolq", "lora", DECISIVE),
    ("sst2", "full", GRADIENTS),
)
