"""Arguments of a transformers `Trainer` from a training run, and options of the optimizer that go with them."""

from typing import Any

import torch

from hybridopt.core.contracts import TrainingJob
from hybridopt.model.quantization.scheme_names import named
from hybridopt.optimizer.releases import release_class
from hybridopt.policy.routes import read_policy
from hybridopt.training.config.run import AUTO, Run

__all__ = ["arguments", "optimizer_options"]

FIRST_LR = 1e-3  # where none is chosen yet: nothing is trained with it


def arguments(job: TrainingJob) -> dict[str, Any]:
    """Return the keyword arguments that TrainingArguments of all kinds share."""
    run: Run = job.run
    train = run.train
    return {
        "output_dir": job.folder,
        "per_device_train_batch_size": train.batch,
        "per_device_eval_batch_size": train.batch,
        "gradient_accumulation_steps": train.accumulate,
        "num_train_epochs": train.epochs,
        "max_steps": -1 if train.max_steps is None else train.max_steps,
        "learning_rate": FIRST_LR if train.lr == AUTO else train.lr,
        "lr_scheduler_type": train.schedule,
        "warmup_steps": train.warmup,
        "weight_decay": train.weight_decay,
        "max_grad_norm": (train.clip or 0.0) if _clips_itself(run) else 0.0,
        "bf16": False,  # weights have their dtype: nothing is cast on the way
        "fp16": False,
        "seed": train.seed,
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": torch.cuda.is_available(),
        "report_to": list(train.report_to) or "none",
        "include_num_input_tokens_seen": "no",
        **_checkpointing(run),
        **_rhythm(run, job.eval is not None),
    }


def optimizer_options(run: Run) -> dict[str, Any]:
    """Return the options of `Strategy.optimizer` that a run asks for, but for rate and decay."""
    options: dict[str, Any] = {"release": run.method.release, "nonfinite": "raise"}
    if release_class(run.method.release).frees_gradients:
        options |= {"clip": run.train.clip}
        options |= {} if run.train.clip is None else {"clip_mode": "previous"}  # the norm is not known in time
    return options


def _clips_itself(run: Run) -> bool:
    """Return whether the Trainer finds gradients to clip after the backward pass."""
    if run.method.policy == AUTO or release_class(run.method.release).frees_gradients:
        return False
    routes = read_policy(run.method.policy, dict(run.method.options)).routes
    return any(route.use is not None and route.use.source.backward for route in routes)


def _checkpointing(run: Run) -> dict[str, Any]:
    scheme = run.method.quantization
    reentrant = scheme is not None and named(scheme, "train").reentrant
    return {
        "gradient_checkpointing": run.train.checkpointing is True,
        "gradient_checkpointing_kwargs": {"use_reentrant": reentrant} if run.train.checkpointing is True else None,
    }


def _rhythm(run: Run, evaluates: bool) -> dict[str, Any]:
    """Return when something is logged, evaluated and saved; with early stopping the best weights are kept."""
    train = run.train
    told: dict[str, Any] = {"logging_strategy": "steps", "logging_steps": train.log_every}
    often = evaluates and train.eval_every is not None
    told |= {"eval_strategy": "steps", "eval_steps": _steps(train.eval_every)} if often else {"eval_strategy": "no"}
    stops = often and train.early_stopping is not None
    every = train.eval_every if stops else train.save_every
    told |= {"save_strategy": "no"} if every is None else {"save_strategy": "steps", "save_steps": _steps(every)}
    told |= {"save_total_limit": train.keep}
    if stops:
        told |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_loss", "greater_is_better": False}
        told |= {"restore_callback_states_from_checkpoint": True}
    return told


def _steps(every: float | None) -> float | None:
    """Return a share of all steps as it is, and a number of steps as a whole one."""
    return every if every is None or every < 1 else int(every)
