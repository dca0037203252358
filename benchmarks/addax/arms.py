"""The rows of the Addax table: what each arm takes gradients and probes from, and where its search starts."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from peft import LoraConfig

import hybridopt


class Setting(NamedTuple):
    """What is searched for: the learning rate, and the share of the probes where an arm mixes (else None)."""

    lr: float
    alpha: float | None = None


@dataclass(frozen=True)
class Arm:
    """What `wrap` is given, the batches of a step, and the centre of the learning rates tried.

    `first` and `zeroth` name the examples that gradients and probes come from ("all" | "short" | "long" | "cut": all,
    of long ones the end; None: none); `gradients` and `probes` are how many of them a step takes. alpha is the centre
    of its search, where the arm mixes. An arm that is `like` another takes that one's setting without a search of its
    own, since it computes the same, or more of it: `longer` times the steps.
    """

    label: str
    centre: float
    options: dict
    alpha: float | None = None
    first: str | None = None
    zeroth: str | None = None
    gradients: int = 4
    probes: int = 6
    release: str = "fused"
    checkpointing: bool = False
    like: str | None = None
    longer: int = 1

    def optimizer(self, model: Any, lr: float, alpha: float | None, seed: int) -> torch.optim.Optimizer:
        """Wrap the model and return its optimizer.

        Args:
            model: the model, which is changed.
            lr: learning rate.
            alpha: share of the probes in the gradient; None where the arm does not mix.
            seed: of the directions of the probes.
        """
        if self.checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        mixture: dict[str, Any] = {} if alpha is None else {"alpha": alpha}
        options = {key: value for key, value in self.options.items() if key != "rank"}
        if rank := self.options.get("rank"):
            options["peft_config"] = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear")
        wrapped: Any = hybridopt.wrap(model, seed=seed, **options, **mixture)
        return wrapped.hybrid.optimizer(lr=lr, nonfinite="skip", release=self.release)


SGD = {"policy": "ip_sgd"}
MEZO = {"policy": "mezo"}
ADDAX = {"policy": "addax"}
LOW = {"rank": 4}  # of LoRA on all linear layers

ARMS = {
    "mezo": Arm("MeZO", 3e-4, MEZO, zeroth="all", probes=16),
    "mezo-longer": Arm("MeZO, 4x the steps", 3e-4, MEZO, zeroth="all", probes=16, like="mezo", longer=4),
    "addax": Arm("Addax", 3e-3, ADDAX, 1e-2, first="short", zeroth="long"),
    "addax-wa": Arm("Addax-WA", 3e-3, ADDAX, 1e-2, first="all", zeroth="all"),
    "ip-sgd": Arm("IP-SGD on everything", 3e-3, SGD, first="all"),
    "ip-sgd-short": Arm("IP-SGD on the short ones only", 3e-3, SGD, first="short"),
    "ip-sgd-checkpointing": Arm(
        "IP-SGD on everything, gradient checkpointing", 3e-3, SGD, first="all", checkpointing=True, like="ip-sgd"
    ),
    "adamw": Arm("AdamW", 3e-4, {"policy": "adamw"}, first="all", release="accumulate"),
}

BURIED = {  # of the task that was designed for Addax: DESIGN.md
    "buried-mezo": replace(ARMS["mezo"], options=MEZO | LOW, centre=1e-1, probes=10),
    "buried-addax": replace(ARMS["addax"], options=ADDAX | LOW, centre=3e-1, alpha=1e-2),
    "buried-ip-sgd": replace(ARMS["ip-sgd"], options=SGD | LOW, centre=1e-1),
    "buried-ip-sgd-short": replace(ARMS["ip-sgd-short"], options=SGD | LOW, centre=1e-1),
    "buried-ip-sgd-cut": Arm("IP-SGD on the short ones and the ends of the long", 1e-1, SGD | LOW, first="cut"),
    "buried-ip-sgd-checkpointing": replace(
        ARMS["ip-sgd-checkpointing"], options=SGD | LOW, centre=1e-1, like="buried-ip-sgd"
    ),
}
OF_TASK = {"same": ARMS, "other": ARMS, "buried": BURIED}
ALL = ARMS | BURIED
