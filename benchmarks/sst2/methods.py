"""The rows of the SST-2 table, and what all of their runs share."""

from dataclasses import asdict, dataclass, field

from torch import nn

import hybridopt


@dataclass(frozen=True)
class Method:
    """A row of the table: what `wrap` is given, and the learning rates that its search starts from."""

    label: str
    lrs: tuple[float, ...]
    options: dict = field(default_factory=dict)
    lora: dict | None = None

    def wrap(self, model: nn.Module, seed: int) -> nn.Module:
        """Give the model this method's policy, LoRA adapters and quantization."""
        if self.lora is None:
            return hybridopt.wrap(model, seed=seed, **self.options)
        from peft import LoraConfig

        return hybridopt.wrap(model, seed=seed, peft_config=LoraConfig(**self.lora), **self.options)


@dataclass(frozen=True)
class Budget:
    """What every run of every method shares; sizes in examples and tokens, autocast is bf16 over fp32 weights."""

    steps: int = 150
    batch: int = 16
    max_length: int = 64
    warmup: float = 0.1
    weight_decay: float = 0.0
    validation: int = 1000
    autocast: bool = True


def settings_of(method: Method, budget: Budget) -> dict:
    """Return everything besides learning rate and seed that decides a run."""
    return asdict(budget) | {"options": method.options, "lora": method.lora}


GAP = 25  # six windows in 150 steps, so that each of the six layers has its turn in BAdam
HIGH, MIDDLE, LOW = (3e-4, 1e-3, 3e-3), (1e-4, 3e-4, 1e-3), (3e-5, 1e-4, 3e-4)
# 0.1 is what FRUGAL's authors fine-tune with; their pre-training uses 1
FRUGAL = {"policy": "frugal", "update_gap": GAP, "free_lr_scale": 0.1}
ADAPTERS = {"r": 16, "lora_alpha": 32, "target_modules": "all-linear", "modules_to_save": ["classifier"]}

METHODS = {
    "adamw": Method("AdamW", LOW, {"policy": "adamw"}),
    "frugal-columns": Method("FRUGAL ρ=0.25, columns", MIDDLE, FRUGAL | {"density": 0.25, "split": "columns"}),
    "frugal-block": Method("FRUGAL ρ=0.25, block", MIDDLE, FRUGAL | {"density": 0.25, "split": "block"}),
    "frugal-0": Method("FRUGAL ρ=0", MIDDLE, FRUGAL | {"density": 0.0}),
    "galore": Method("GaLore ρ=0.25", MIDDLE, {"policy": "galore", "density": 0.25, "update_gap": GAP}),
    "badam": Method("BAdam", MIDDLE, {"policy": "badam", "update_gap": GAP}),
    "signsgd": Method("signSGD", LOW, {"policy": "signsgd"}),
    "lora-nf4-frugal": Method(
        "LoRA + NF4 + FRUGAL ρ=0.25",
        HIGH,
        FRUGAL | {"density": 0.25, "split": "columns", "quantization": "nf4"},
        lora=ADAPTERS | {"task_type": "SEQ_CLS"},
    ),
}
