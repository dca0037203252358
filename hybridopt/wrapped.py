"""A model that is trained, beside what it was when it was wrapped: what has to be saved, and what cannot be."""

from torch import Tensor, nn

from .core.errors import HybridOptError
from .model.adapters import adapter_names, check_attached
from .model.base_record import Origin, changed, remembered, restructured
from .model.changed_codes import changed_codes, check_codes
from .model.placement.placed import up_to_date
from .model.quantization.sharded_codes import follow_shards_
from .planned import Planned
from .policy.plan import Plan
from .policy.routes import Ready, Route

__all__ = ["WithOrigin"]


class WithOrigin(Planned):
    """A planned model that knows its base as it was when it was wrapped for the first time.

    Args:
        model: whose parameters are trained.
        policy: says how, by role and name.
        seed: of every random choice of training.
        origin: what the base model was: its tensors, what its quantized weights are made of, what was quantized.
        plan: the policy resolved on the model as it is now; None: it is resolved when needed.
    """

    def __init__(self, model: nn.Module, policy: Ready[Route], seed: int, origin: Origin, plan: Plan | None = None):
        super().__init__(model, policy, seed, plan)
        self.base, self.codes = origin.base, origin.codes
        self.quantization, self.quantized = origin.quantization, origin.quantized
        self._adapters = adapter_names(model)  # that are known to come back from a folder

    @property
    def origin(self) -> Origin:
        """What the model was when it was wrapped for the first time."""
        return Origin(self.base, self.codes, self.quantization, self.quantized)

    def check_structure(self) -> None:
        """Raise HybridOptError if the base was wrapped again since, or its tensors added, removed or resized."""
        base = remembered(self.model).base
        if base and base is not self.base:
            raise HybridOptError(
                f"the base of this {type(self.model).__name__} was wrapped again since, after its adapters were taken "
                "off; train and save the model that the last wrap has returned"
            )
        follow_shards_(self.model, self.codes)
        if why := restructured(self.model, self.base):
            raise HybridOptError(
                f"the model was changed since it was wrapped: {why}; what is saved would fit no base model. Take "
                "model.hybrid.unwrap(), then wrap the model as it is now"
            )

    def check_adapters(self) -> None:
        """Raise HybridOptError if adapters were put on the model since `wrap` that could not be saved and loaded."""
        if adapter_names(self.model) != self._adapters:
            check_attached(self.model)
            self._adapters = adapter_names(self.model)

    def changed_tensors(self) -> dict[str, Tensor]:
        """Return the base tensors that differ from the base model's, by live name; all parts of quantized weights.

        Raises:
            HybridOptError: layers are quantized now that were not when the model was wrapped, or the reverse.
        """
        check_codes(self.model, self.codes)
        up_to_date(self.model)
        return changed(self.model, self.base) | changed_codes(self.model, self.codes)
