"""Modules of the benchmarks that run in a process of their own."""

import os
import subprocess
import sys
from collections.abc import Iterable

from .places import ROOT


def run_module(module: str, arguments: Iterable[str], **options) -> subprocess.CompletedProcess:
    """Run `python -m benchmarks.<module>` from wherever this process stands, and wait for it.

    Args:
        module: name below benchmarks: "step", "fit_70b.run".
        arguments: of its command line.
        **options: of subprocess.run; `env` is added to this process's environment.

    Returns:
        What subprocess.run returns.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path} | options.pop("env", {})
    return subprocess.run([sys.executable, "-m", f"benchmarks.{module}", *arguments], env=environment, **options)
