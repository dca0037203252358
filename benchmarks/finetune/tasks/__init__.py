"""The tasks of the fine-tuning table, a file each; a file that defines TASK is one."""

from importlib import import_module
from pkgutil import iter_modules

from ..task import Task

FIRST = ("question_types", "sst2", "boolq", "instruct")  # in this order; any others after them


def tasks() -> dict[str, Task]:
    """Return all tasks by name."""
    there = [module.name for module in iter_modules(__path__)]
    order = sorted(there, key=lambda name: (FIRST.index(name) if name in FIRST else len(FIRST), name))
    return {name: import_module(f"{__name__}.{name}").TASK for name in order}
