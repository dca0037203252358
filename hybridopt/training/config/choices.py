"""The words that keys of a run take: known without importing what they stand for."""

from ...core.part_files import PLACES, names
from ..data.formats import FORMATS

__all__ = ["AUTO", "DTYPES", "FORMATS", "LOSSES", "REPORTS", "SCHEDULES", "policies", "releases", "schemes", "tasks"]

AUTO = "auto"
DTYPES = (AUTO, "bf16", "fp16", "fp32")
LOSSES = (AUTO, "all", "completion", "assistant")
# Those of transformers that follow from the number of the step alone: others need more settings, or evaluations.
SCHEDULES = (
    "constant",
    "constant_with_warmup",
    "cosine",
    "cosine_with_restarts",
    "inverse_sqrt",
    "linear",
    "polynomial",
)
# Those that transformers' Trainer reports to.
REPORTS = (
    "azure_ml",
    "clearml",
    "codecarbon",
    "comet_ml",
    "dagshub",
    "dvclive",
    "flyte",
    "kubeflow",
    "mlflow",
    "neptune",
    "swanlab",
    "tensorboard",
    "trackio",
    "wandb",
)
TASKS = ("classify", "dpo", "grpo", "reward", "sft", "text")


def policies() -> tuple[str, ...]:
    """Return "auto" and the names of all policies."""
    return AUTO, *names("policies")


def releases() -> tuple[str, ...]:
    """Return the names of all releases of gradients."""
    return names("releases")


def schemes() -> tuple[str, ...]:
    """Return the names of all quantization schemes, as users write them."""
    return tuple(name.replace("_", "-") for name in names("schemes"))


def tasks() -> tuple[str, ...]:
    """Return "auto" and the names of all tasks."""
    return AUTO, *(names("tasks") if "tasks" in PLACES else TASKS)
