"""Plan a run: its request, its memory, and the run that a request stands for."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.dtypes import DTYPES
from ...core.host import host
from ...core.host_memory import left
from ...core.launch_environment import world
from ...model.placement.placement import Placement
from ...planning import Estimate, Estimator, Request
from ...planning.subject.model import Subject, checkpoints
from ...planning.subject.source import subject_of
from ..config.run import AUTO, LoraSettings, PlacementSettings, Run
from .adapters import adapters
from .memory_budget import room_of
from .resting import placement_of, settings_of
from .shape import Shape

__all__ = ["Planner"]

HALF = "fp16"  # its gradients vanish or overflow unless losses are scaled


class Planner:
    """Plans one run, and changes of it.

    Args:
        run: what is asked.
        config: of the model: transformers' configuration, with the head that is trained, or what `plan` takes.
        shape: of its passes.

    Attributes:
        room: memory that it is planned for.
        host: this machine's, where layers may rest.
        estimator: of requests whose batch is counted in examples.
        told: lines for people.
    """

    def __init__(self, run: Run, config: Any, shape: Shape):
        self.run, self.shape = run, shape
        self.room, self.device, self.told = room_of(run)
        self.host = host(left(Path("/")))
        self.dtype = self._dtype(config)
        self.sequences = max(1, shape.batch // run.train.batch)
        self.estimator = _PerExample(subject_of(config), self.sequences, self._change)

    @property
    def size(self) -> dict[str, Any]:
        """Return what all requests have in common, for `search`."""
        lora, head = self.run.method.lora or LoraSettings(), "causal" if self.shape.causal else "classes"
        return {
            "seq_len": self.shape.seq_len,
            "batch": self.run.train.batch,
            "micro_batches": self.shape.micro_batches,
            "dtype": self.dtype,
            "device": self.device,
            "seed": self.run.train.seed,
            "gpus": world().size,
            "parallel": "ddp" if self.run.parallel == AUTO else self.run.parallel,
            "peft_config": adapters(lora, head),
        }

    def request(self) -> Request:
        """Return the request of a run whose policy is named; with checkpointing only where the run says so."""
        method = self.run.method
        return Request(
            policy=method.policy,
            options=dict(method.options),
            lora=None if method.lora is None else method.lora.r,
            quantization=method.quantization,
            release=method.release,
            checkpointing=self.run.train.checkpointing is True,
            placement=self.placement,
            activations=method.activations,
            **self.size,
        )

    @property
    def placement(self) -> Placement | None:
        """Return where layers rest, as the run says; None for the device."""
        return placement_of(self.run.method.placement)

    def placements(self) -> list[Placement]:
        """Return where layers could rest, the nearest first."""
        bases = ("disk",) if self.device == "cpu" else ("host", "disk")
        return [found for base in bases if (found := placement_of(PlacementSettings(base))) is not None]

    def checkpoints(self, request: Request) -> bool:
        """Return whether checkpointing can be of any use: the model has it, and there is a backward pass."""
        if request.activations is not None:
            return False  # layers that are computed again would draw other rows
        return not request.probes and checkpoints(self.estimator.source)

    def run_of(self, request: Request) -> Run:
        """Return the run that a request stands for."""
        lora = None if request.lora is None else self.run.method.lora or LoraSettings(request.lora)
        method = replace(
            self.run.method,
            policy=str(request.policy),
            options=dict(request.options),
            lora=lora,
            quantization=request.quantization,
            release=request.release,
            placement=settings_of(request.placement, self.run.method.placement),
        )
        data, train = self.run.data, self.run.train
        if request.seq_len < self.shape.seq_len:
            data = replace(data, max_length=request.seq_len)
        train = replace(
            train,
            batch=request.batch,
            accumulate=request.micro_batches,
            checkpointing=request.checkpointing,
            dtype=request.dtype,
        )
        parallel = self.run.parallel if request.gpus == 1 else request.parallel
        return replace(self.run, method=method, data=data, train=train, parallel=parallel)

    def shown(self, estimate: Estimate) -> Estimate:
        """Return an estimate whose batch is counted in sequences, as it is planned."""
        request = estimate.request
        return replace(estimate, request=request.but(batch=request.batch * self.sequences))

    def _change(self, model: Any) -> None:
        self.shape.change(model, self.device)

    def _dtype(self, config: Any) -> str:
        """Return the dtype of the weights: the model's own if nothing is said, float32 where nobody says."""
        if self.run.train.dtype != AUTO:
            return self.run.train.dtype
        own = getattr(config, "dtype", None)
        name = next((short for short, long in DTYPES.items() if str(own).removeprefix("torch.") == long), "fp32")
        if name != HALF:
            return name
        self.told.append(
            "train.dtype=bf16: the model is saved in float16, whose gradients vanish or overflow in training"
        )
        return "bf16"


class _PerExample(Estimator):
    """Estimates requests whose `batch` is a number of examples, of several sequences each.

    Args:
        source: the model's dimensions.
        sequences: of an example.
    """

    def __init__(self, source: Subject, sequences: int, change: Callable = lambda model: None):
        super().__init__(source, change)
        self._sequences = sequences

    def estimate(self, request: Request) -> Estimate:
        """Return what a way takes; raise as an Estimator does."""
        found = super().estimate(request.but(batch=request.batch * self._sequences))
        return replace(found, request=request)

    def least(self, request: Request) -> int:
        """Return a lower bound on what a way takes, in bytes."""
        return super().least(request.but(batch=request.batch * self._sequences))
