"""The Strategy that `wrap` attaches to a model: a policy, resolved by name on the module tree whenever needed."""

from collections.abc import Mapping
from dataclasses import replace
from inspect import signature
from typing import Any

from torch import Tensor, nn

from .core.errors import HybridOptError
from .model.base_record import Origin, remember
from .model.changed_codes import updated
from .model.containers import REPLICAS, original, uncompiled
from .model.fsdp.sharded_tensors import reshard_
from .model.placement.guarding.refusals import check_trainable
from .model.placement.placed import unplace
from .model.quantization.coded import coded_names
from .model.quantization.replacing import dequantize_
from .model.quantization.scales import scales
from .model.roles import clean
from .optimizer.foreign_optimizers import forget
from .optimizer.optimizer import HybridOptimizer
from .optimizer.releases import DEFAULT
from .policy.other_names import check_known
from .policy.plan import Plan
from .policy.report import Report
from .policy.routes import Ready, Route, check_routes
from .saved import Saved

__all__ = ["Strategy"]


class Strategy(Saved):
    """How a model is trained, as `model.hybrid`: tags, report, optimizer, saving.

    It holds names of parameters, never parameters, so it stays right when the model's parameters are replaced.
    `quantization` and `quantized` are the scheme and the names of the layers that `wrap` quantized.

    Args:
        model: to which the strategy is attached.
        policy: says how parameters are trained, by role and name.
        seed: of every random choice of training.
        origin: what the base model was: its tensors, what its quantized weights are made of, what was quantized.
        plan: the policy resolved on the model as it is now; None: it is resolved when needed.
    """

    def __init__(self, model: nn.Module, policy: Ready[Route], seed: int, origin: Origin, plan: Plan | None = None):
        super().__init__(model, policy, seed, origin, plan)
        self.choice: Any = None  # planning.Choice of policy="auto"
        self._given = model

    def __repr__(self) -> str:
        """Say what trains which class of model; the tags are in `report()`."""
        base = "" if self.quantization is None else f", quantization={self.quantization!r}"
        return f"{type(self).__name__}({type(self.model).__name__}, {self.policy!r}{base}, seed={self.seed})"

    def adopt(self, inner: "Strategy") -> None:
        """Take over records and quantization of the base model's own strategy, and detach that strategy."""
        self.codes = updated(inner.codes, self.codes)
        self.base, self.quantization, self.quantized = inner.base, inner.quantization, inner.quantized
        inner.unwrap()

    def held(self) -> list[Tensor]:
        """Return the parameters that the optimizers of this strategy hold; without any, those that one would train."""
        return self._optimizers.params() or self.to_train()

    def held_by(self, given: nn.Module) -> None:
        """Note the model as users hold it: in what `torch.compile` or DistributedDataParallel has put around it."""
        self._given = given
        if isinstance(original(given), REPLICAS):
            original(given).hybrid = self

    def memory(self, batch: Mapping[str, Tensor] | None = None, **how: Any) -> Any:
        """Estimate the bytes that a training step of this model takes, by closed forms and a simulated step.

        Args:
            batch: what the model is called with, by name; only shapes and dtypes count. None: seq_len (2048, or as
                many as there are positions for) tokens in each of batch_size (1) sequences.
            **how: seq_len, batch_size, micro_batches (1), release ("accumulate", or that of `choice`), gpus (1) that
                train together, of each of which bytes are told, and parallel ("fsdp" or "ddp").

        Returns:
            A planning.Estimate: `peak_bytes`, and what they are for (`parts`).

        Raises:
            HybridOptError: the model does not return an object with `loss` for such a batch.
        """
        from .planning.live import plan_live

        if self.choice is not None:
            how = {"release": self.choice.request.release} | how
        with uncompiled(self.model):
            return plan_live(self.model, batch, **how)

    def plan(self, batch: Mapping[str, Tensor] | None = None, **how: Any) -> Any:
        """Return `memory(batch, **how)`, whose older name this is; `hybridopt.Plan` is something else, the tags."""
        return self.memory(batch, **how)

    def report(self, **step: Any) -> Report:
        """Tabulate tag, role, tensors, parameters, bytes of weights, gradients and optimizer state.

        Of a placed model it says where weights rest, and what a step moves.

        step: what `memory` takes, such as seq_len=2048; the table then ends with the peak of a training step.
        """
        found = Report.of(self.resolved(), self.model)
        if found.rests is not None:
            from .planning.placement.live import moved_live

            found = replace(found, moved=moved_live(self.model, self.policy, self.resolved()))
        return replace(found, step=self.memory(**step).parts) if step else found

    def optimizer(
        self,
        lr: float | Tensor | str | None = None,
        weight_decay: float = 0.0,
        nonfinite: str = "raise",
        release: str | None = None,
        clip: float | None = None,
        clip_mode: str = "global",
        compile: bool | str = "auto",
        process_group: Any = None,
        **unknown: Any,
    ) -> HybridOptimizer:
        """Return a torch optimizer for the model as it is now; make a new one after adding or switching adapters.

        Parameters that the policy freezes, or trains without gradients, get requires_grad=False until `unwrap` or the
        next call, and the hooks of optimizers made before are removed. See `HybridOptimizer` for the arguments.

        Args:
            lr: learning rate; "pretrain", "full" or "lora": where the policy is started from in such training. None:
                what the policy's options say, or else "lora" with adapters and "full" without.
            weight_decay: decoupled; norms and biases are exempt in most policies.
            nonfinite: what an infinite or NaN gradient does: "raise" an error, "skip" the step, or "ignore".
            release: "accumulate" or "fused"; None: what policy="auto" has chosen, or else "accumulate".
            clip: largest gradient norm; None: gradients are not clipped.
            clip_mode: of what the norm is taken: "global", "tensor" or "previous".
            compile: whether updates of large parameters are compiled: True, False, or "auto", where it pays.
            process_group: torch's, of the processes that train this model together; None: those of its shards or its
                DistributedDataParallel, or else all.
            unknown: nothing; options of the policy are for `wrap`.

        Raises:
            HybridOptError: nothing is left to train, or an option is unknown.
        """
        own = [name for name in signature(Strategy.optimizer).parameters if name not in ("self", "unknown")]
        check_known("model.hybrid.optimizer", unknown, own, self.policy.options())
        reshard_(self.model)
        self.check_structure()
        self.check_adapters()
        if self.choice is not None:
            release = self.choice.request.release if release is None else release
        plan = self.resolved()
        if not plan.trained:
            raise HybridOptError(
                "nothing to train: every parameter is frozen, quantized, or has requires_grad=False; "
                "add an adapter (peft_config=LoraConfig(...)) or unfreeze parameters"
            )
        check_routes(self.policy, plan.tags)
        check_trainable(self.model, plan.trained)
        live: dict[str, Tensor] = {clean(n): p for n, p in self.model.named_parameters()}
        live |= {clean(n): x for n, _, x in scales(self.model)}
        with self._optimizers.unhooked():
            optimizer = HybridOptimizer(
                [(n, live[n]) for n in plan.trained],
                lr=lr,
                weight_decay=weight_decay,
                policy=self.policy,
                seed=self.seed,
                nonfinite=nonfinite,
                roles={e.param.name: e for e in plan.entries},
                release=release or DEFAULT,
                clip=clip,
                clip_mode=clip_mode,
                compile=compile,
                module=self.model,
                process_group=process_group,
            )
        self._freeze(plan)
        self._optimizers.add(optimizer)
        self._inputs.follow(optimizer)
        return optimizer

    def unwrap(self) -> nn.Module:
        """Remove `hybrid` and every hook from the model, make what the policy froze trainable, return the model.

        The weights of a placed model stay where they rest, as ordinary tensors.
        """
        forget(self)
        self._optimizers.unhook()
        self._thaw()
        self.keep_activations(None)
        for holder in (self.model, original(self._given)):
            holder.__dict__.pop("hybrid", None)
        remember(self.model, self.origin)
        unplace(self.model)
        return self._given

    def dequantize(self) -> nn.Module:
        """Turn the codes of quantization="int8-trainable" into float weights, layer by layer, and return the model.

        Its outputs stay the same to the last bit. Training goes on with a new optimizer.
        """
        if not coded_names(self.model):
            raise HybridOptError("no weight is kept as codes; dequantize() is for quantization='int8-trainable'")
        with uncompiled(self.model):
            dequantize_(self.model)
        self.quantization, self.quantized = None, ()
        self._optimizers.retire(
            "the model was dequantized, and this optimizer holds its old weights; make a new one with "
            "model.hybrid.optimizer(), which takes this one's state: new.load_state_dict(old.state_dict())"
        )
        return self.model

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_planned", "_given")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._planned, self._given = (None, self.policy), self.model
