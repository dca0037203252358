"""What `wrap` attaches to a model: the policy, resolved by name on the live module tree whenever it is needed."""

import copy
import hashlib
import math
import weakref
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from .errors import HybridOptError, check_choice
from .optimizer import HybridOptimizer
from .plan import Plan
from .policy import Ready, check_routes
from .report import Report
from .roles import base_name, base_names, clean, params

__all__ = ["Strategy", "fingerprint", "persistent_buffers"]


class Strategy:
    """`model.hybrid`: tags, report, optimizer, saving. Holds names, never parameters, so it follows the model.

    quantization, quantized: the scheme and the names of the layers that `wrap` quantized.
    changed: base tensors known to differ from the base model, by base name.
    """

    def __init__(self, model: nn.Module, policy: Ready, seed: int = 0, quantization: str | None = None):
        self.model, self.policy, self.seed, self.quantization = model, policy, seed, quantization
        self.quantized: tuple[str, ...] = ()
        self.changed: set[str] = set()
        self.base: str = ""  # fingerprint of the base model's parameter names
        self._frozen: set[str] = set()
        self._optimizers: weakref.WeakSet[HybridOptimizer] = weakref.WeakSet()
        self.watch()

    def watch(self) -> None:
        """Take the base weights as they are now for the base model's, save for those known to be changed."""
        self._versions = {base_name(n): p._version for n, p in self.model.named_parameters()}
        self._buffers = {base_name(n): _digest(b) for n, b in persistent_buffers(self.model)}

    def adopt(self, inner: "Strategy") -> None:
        """Take over what a strategy of the base model knows, and the base model from it."""
        self.changed |= inner.changed | {base_name(n) for n in inner.changed_tensors()}
        self.base, self.quantization, self.quantized = inner.base, inner.quantization, inner.quantized
        inner.unwrap()

    @property
    def tags(self) -> dict[str, str]:
        """Every parameter's tag by name: state-full, state-free, split or frozen."""
        return self._plan().tags

    def report(self) -> Report:
        """A table: tag, role, tensors, parameters, bytes of weights, gradients and optimizer state."""
        return Report.of(self._plan(), self.model)

    def optimizer(
        self,
        lr: float | Tensor = 1e-3,
        weight_decay: float = 0.0,
        nonfinite: str = "raise",
        release: str = "accumulate",
    ) -> HybridOptimizer:
        """A torch optimizer for the model as it is now; make a new one after adding or switching adapters.

        Parameters that the policy freezes get requires_grad=False until `unwrap` or the next call. See
        `HybridOptimizer` for the arguments. Raises HybridOptError if nothing is left to train.
        """
        check_choice("optimizer", "release", release, ("accumulate",))
        plan = self._plan()
        if not plan.trained:
            raise HybridOptError(
                "nothing to train: every parameter is frozen, quantized, or has requires_grad=False; "
                "add an adapter (peft_config=LoraConfig(...)) or unfreeze parameters"
            )
        check_routes(self.policy, plan.tags)
        live = {clean(n): p for n, p in self.model.named_parameters()}
        optimizer = HybridOptimizer(
            [(n, live[n]) for n in plan.trained],
            lr=lr,
            weight_decay=weight_decay,
            policy=self.policy,
            seed=self.seed,
            nonfinite=nonfinite,
            roles={e.param.name: e.param.role for e in plan.entries},
        )
        self._freeze(plan)
        self.changed |= {base_name(n) for n in plan.trained}
        self._optimizers.add(optimizer)
        return optimizer

    def save_pretrained(self, directory: str) -> None:
        """Save adapters, every changed base tensor and the configuration; see `hybridopt.from_pretrained`."""
        from .checkpoint import save

        save(self, directory)

    def unwrap(self) -> nn.Module:
        """Take `hybrid` off the model again, with every hook, and give back what the policy froze."""
        for optimizer in self._optimizers:
            optimizer.unhook()
        self._thaw()
        self.model.__dict__.pop("hybrid", None)
        return self.model

    def changed_tensors(self) -> dict[str, Tensor]:
        """Unquantized base parameters and persistent buffers that differ from the base model's, by live name."""
        parameters = {
            clean(n): p.detach()
            for n, p in self.model.named_parameters()
            if p.is_floating_point() and self._differs(base_name(n), p)
        }
        buffers = ((n, b, base_name(n)) for n, b in persistent_buffers(self.model))
        return parameters | {
            clean(n): b for n, b, name in buffers if name in self.changed or self._buffers.get(name) != _digest(b)
        }

    def unfrozen(self) -> list[str]:
        """Parameters of the base model, by base name, that are trained beside the adapters of a PeftModel."""
        own = set(base_names(self.model)) if hasattr(self.model, "peft_config") else ()
        live = ((base_name(n), p.requires_grad or clean(n) in self._frozen) for n, p in self.model.named_parameters())
        return sorted(n for n, trainable in live if trainable and n in own)

    def _differs(self, name, p):
        return name in self.changed or self._versions.get(name, p._version) != p._version

    def _plan(self):
        """The plan as if nothing had been frozen by an earlier one."""
        live = [p if p.name not in self._frozen else replace(p, trainable=True) for p in params(self.model)]
        return Plan.of(live, self.policy, self.seed)

    def _freeze(self, plan):
        self._thaw()
        for name, p in self.model.named_parameters():
            if p.requires_grad and plan.tags[clean(name)] == "frozen":
                p.requires_grad_(False)
                self._frozen.add(clean(name))

    def _thaw(self):
        for name, p in self.model.named_parameters():
            if clean(name) in self._frozen:
                p.requires_grad_(True)
        self._frozen = set()

    def _copied(self, version):
        """What a copy needs; its tensors start with new version counters, so what has changed is written down."""
        changed = self.changed | {base_name(n) for n in self.changed_tensors()}
        kept = {k: v for k, v in self.__dict__.items() if k != "_optimizers"}
        return kept | {"changed": changed, "_versions": dict.fromkeys(self._versions, version)}

    def __getstate__(self) -> dict:
        return self._copied(version=1)  # unpickled parameters have been written once

    def __deepcopy__(self, memo: dict) -> "Strategy":
        twin = memo[id(self)] = type(self).__new__(type(self))
        twin.__setstate__(copy.deepcopy(self._copied(version=0), memo))
        return twin

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._optimizers = weakref.WeakSet()


def persistent_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Name and tensor of every buffer that state_dict holds."""
    for prefix, module in model.named_modules():
        for name, buffer in module.named_buffers(recurse=False):
            if name not in module._non_persistent_buffers_set:
                yield f"{prefix}.{name}" if prefix else name, buffer


def fingerprint(model: nn.Module) -> str:
    """A short text that says whether two models have the same base parameters, by name and number of elements.

    Adapters and quantization make no difference to it.
    """
    own = set(base_names(model))
    lines = {f"{base_name(p.name)} {math.prod(p.shape)}" for p in params(model) if base_name(p.name) in own}
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]


def _digest(buffer):
    data = buffer.detach().cpu().contiguous().flatten().view(torch.uint8)
    return hashlib.sha256(data.numpy().tobytes()).hexdigest()
