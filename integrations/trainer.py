"""A transformers `Trainer` for every policy: gradients, probes, or both. The training loop stays the Trainer's."""

from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate.data_loader import prepare_data_loader
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import Trainer

from hybridopt.core.errors import HybridOptError
from hybridopt.model.quantization.sizes import weight_bytes
from hybridopt.optimizer.releases import release_class
from hybridopt.policy.routes import Ready, read_policy
from hybridopt.strategy import Strategy

from .addax.activations import gradient_bytes
from .addax.assignment import FREE, Assignment, choose, measure_rows, total_bytes
from .addax.lengths import Halves, Lengths, PairCollator, PairSampler, lengths_of
from .tokens import Tokens
from .trainer_batches import PreparedBatches
from .trainer_checkpoints import ResumeCheck, Resuming
from .trainer_checks import check, check_arguments, check_assignment, check_options
from .trainer_log import with_probes, with_true_norm
from .trainer_norms import TellingNorms, bare
from .trainer_ranks import OnRanks
from .trainer_windows import WindowsCheck
from .transformers import HybridOptimizerFactory

__all__ = ["HybridTrainer", "HybridTrainerMixin"]

FILE = "hybridopt_assignment.json"
LOADING: tuple[str, ...] = ("num_workers", "worker_init_fn", "pin_memory", "persistent_workers", "in_order")
LOADING += ("multiprocessing_context", "prefetch_factor")


class HybridTrainerMixin(OnRanks, Resuming, PreparedBatches, TellingNorms):
    """Makes any Trainer run any policy: `class Mine(HybridTrainerMixin, SFTTrainer)`.

    Policies with probes: every micro-batch is probed before its backward pass, all of a step along the same
    directions, with the model in training mode (both sides of a probe drop out the same), and the mean of their
    projected gradients is used. The log gets projected_gradient, of the last step, and probe_loss, the mean since the
    log before. Several processes (DDP, FSDP2) exchange losses. fp16 is refused before anything is trained.

    Args:
        args: the Trainer's own.
        policy: a name, or what else `wrap` takes; "frugal" unless the model is wrapped. The learning rate, weight
            decay and seed are those of the TrainingArguments, except that zo_lr and fo_lr of a policy come first.
        policy_options: of the policy that is named.
        optimizer_options: release, clip, nonfinite ... as in `Strategy.optimizer`.
        assignment: how rows are split between gradient and probe (Addax): `Halves`, with their own batch sizes; or a
            memory budget, weights included, as in `total_bytes` ("8GiB", a number of bytes, "free"). Then the split is
            chosen by measurement, printed, and kept: as `trainer.assignment`, and in hybridopt_assignment.json of the
            output folder, from where it is taken again for the same rows and budget. Without it, gradient and probe
            are taken on the same batch.
        lengths: of the rows of the training set, as in `pair_loader`.
        kwargs: the Trainer's own.
    """

    optimizer: torch.optim.Optimizer | None
    tokens_seen: Tokens  # by this process, since the trainer was made
    _probed: list[float]  # losses since the last log

    def __init__(
        self,
        *args: Any,
        policy: str | Ready | None = None,
        policy_options: Mapping[str, Any] | None = None,
        optimizer_options: Mapping[str, Any] | None = None,
        assignment: Halves | int | str | None = None,
        lengths: Lengths = None,
        **kwargs: Any,
    ) -> None:
        if lengths is not None and assignment is None:
            raise HybridOptError("lengths are for assignment=...; give that, too, or leave both out")
        if assignment is not None:
            check_assignment(type(self))
        asked = policy is not None or policy_options
        self._policy = _read(policy, policy_options or {}) if asked else None
        check_options(super().__init__, self._policy or _read(None, {}), kwargs)
        self._options = dict(optimizer_options or {})
        self.assignment, self._lengths, self._probed = assignment, lengths, []
        self.tokens_seen = Tokens()
        super().__init__(*args, **kwargs)
        if (asked or optimizer_options) and (self.optimizer, self.optimizer_cls_and_kwargs) != (None, None):
            raise HybridOptError(
                f"policy={policy!r} and its options say how to train, and so does the optimizer that is given; leave "
                "one of them out"
            )
        self.add_callback(ResumeCheck())
        self.add_callback(WindowsCheck())

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Make the policy's optimizer; an optimizer, or its class, that the Trainer was given comes first.

        Raises:
            HybridOptError: the policy does not go with the Trainer's settings; a model wrapped here is unwrapped.
        """
        self._shard_as_asked()
        if self.optimizer is not None or self.optimizer_cls_and_kwargs is not None:
            optimizer = super().create_optimizer(model)
            check(self, bare(optimizer))
            return optimizer
        check_arguments(self.args)
        model = self.model if model is None else model
        there = getattr(model, "hybrid", None)
        optimizer = HybridOptimizerFactory()(model, **self._for_factory(there))
        try:
            check(self, optimizer)
        except HybridOptError:
            if there is None:
                cast(Strategy, model.hybrid).unwrap()
            raise
        self.optimizer = optimizer
        return optimizer

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Tensor | int | None = None) -> Tensor:
        """Probe if the policy needs it, then run the Trainer's own step, without a loss if it needs no gradients.

        A batch for both is prepared once: a trainer that generates text uses the same for all losses of a step.

        Args:
            model: in its container for several devices, if any.
            inputs: a batch, whatever the Trainer takes for one, or {"fo": batch, "zo": batch} with `assignment`.
            num_items_in_batch: as the Trainer's.

        Returns:
            The loss of the Trainer's step, or of the probe without one, over the number of micro-batches.
        """
        self.tokens_seen.add(inputs)
        optimizer = bare(self.optimizer)
        if optimizer is None or not optimizer.probes_needed:
            with self._tells(optimizer):
                return super().training_step(model, inputs, num_items_in_batch)
        halves = isinstance(inputs, Mapping) and set(inputs) == {"fo", "zo"}
        model.train()
        zeroth = self._prepare_inputs(inputs["zo"] if halves else inputs)
        inner = self.accelerator.unwrap_model(model)  # of DDP, which has nothing to do in a probe
        self._probed.append(optimizer.probe(lambda: self._loss(inner, zeroth)))
        with self._prepared_already(zeroth):
            if optimizer.gradients_needed:
                with self._tells(optimizer):
                    return super().training_step(model, inputs["fo"] if halves else zeroth, num_items_in_batch)
            with self._loss_is(self._probed[-1]):
                super().training_step(model, zeroth, num_items_in_batch)
        return torch.tensor(self._probed[-1] / self.current_gradient_accumulation_steps, device=self.args.device)

    def get_train_dataloader(self) -> DataLoader:
        """Return the Trainer's own loader, or with `assignment` one of {"fo": batch, "zo": batch}, split by length."""
        loader = super().get_train_dataloader()
        if self.assignment is None:
            return loader
        lengths = lengths_of(self.train_dataset, self._lengths)
        if not isinstance(self.assignment, Halves):
            with self.args.main_process_first(local=False, desc="choosing an assignment"):  # others read what it kept
                self.assignment = self._assigned(loader, lengths, self.assignment)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        pairs = DataLoader(
            loader.dataset,
            batch_sampler=PairSampler(lengths, self.assignment, seed, self.args.process_index, self.args.world_size),
            collate_fn=PairCollator(loader.collate_fn, self.assignment.fo_batch),
            **{key: getattr(loader, key) for key in LOADING},
        )
        # it is shared out among the ranks already: accelerate would lose the epoch when it skips batches to resume
        return prepare_data_loader(pairs, self.accelerator.device, 1, 0, put_on_device=True)

    def _for_factory(self, strategy: Strategy | None) -> dict[str, Any]:
        """Return the keyword arguments for HybridOptimizerFactory; `strategy` is that of a wrapped model."""
        policy = self._policy if strategy is None or self._policy is not None else strategy.policy
        own = None if policy is None else policy.lr
        options = {"lr": self.args.learning_rate if own is None else own, "weight_decay": self.args.weight_decay}
        if self._frees_gradients() and not self.args.max_grad_norm:
            options["clip"] = None
        seed = self.args.seed if strategy is None else None
        return {**options, **self._options, "policy": policy, "seed": seed}

    def _frees_gradients(self) -> bool:
        return release_class(self._options.get("release")).frees_gradients

    def _loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the mean loss of one batch, which is copied: compute_loss may remove entries."""
        with self.compute_loss_context_manager():
            return self.compute_loss(model, copy(batch))

    def _assigned(self, loader: DataLoader, lengths: list[int], budget: int | str) -> Assignment:
        """Return the assignment in the output folder if it is still right; otherwise choose, print and save one.

        Args:
            loader: the Trainer's own.
            lengths: tokens of every row.
            budget: as in `total_bytes`.
        """
        path = Path(self.args.output_dir) / FILE
        if path.exists() and self._still_holds(kept := Assignment.load(path), lengths, budget):
            return kept
        costs = measure_rows(self.model, loader.dataset, lengths, loader.collate_fn, self._measured)
        costs = replace(costs, fused=self._frees_gradients(), accumulated=self.args.gradient_accumulation_steps > 1)
        chosen = choose(costs, lengths, total_bytes(budget, self.model))
        print(chosen)
        path.parent.mkdir(parents=True, exist_ok=True)
        chosen.save(path)
        return chosen

    def _still_holds(self, kept: Assignment, lengths: list[int], asked: int | str) -> bool:
        """Tell whether an assignment was chosen for these rows, weights, gradients and budget.

        Two budgets "free" are equal, though free memory changes all the time.
        """
        largest, trained = gradient_bytes(self.model)
        alive = largest if self._frees_gradients() and self.args.gradient_accumulation_steps == 1 else trained
        limit = kept.longest if kept.threshold is None else kept.threshold
        share = sum(length <= limit for length in lengths) / len(lengths)
        now = (max(lengths), share, weight_bytes(self.model), alive)
        budget = asked == FREE or total_bytes(asked, self.model) == kept.budget
        return budget and now == (kept.longest, kept.fo_share, kept.weights, kept.gradients)

    def _measured(self, batch: dict[str, Any]) -> Tensor:
        """Return the loss of a batch as in training: on the Trainer's device, under its autocast."""
        with self.accelerator.autocast():
            return self._loss(self.model, self._prepare_inputs(batch))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log as the Trainer does, beside a loss what was probed, and the true `grad_norm` where it would log 0.

        Args:
            logs: what is logged.
            args: the Trainer's own.
            kwargs: the Trainer's own.
        """
        optimizer = bare(self.optimizer)
        logs = with_probes(with_true_norm(logs, optimizer), optimizer, self._probed)
        super().log(logs, *args, **kwargs)


class HybridTrainer(HybridTrainerMixin, Trainer):
    """The transformers Trainer, for every policy."""


def _read(policy: str | Ready | None, options: Mapping[str, Any]) -> Ready:
    return read_policy("frugal" if policy is None else policy, dict(options))
