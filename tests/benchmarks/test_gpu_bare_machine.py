"""gpu_packages.sh on machines that lack a home, pip, or a folder for compiled kernels."""

import os
import subprocess
import sys
import zipfile

import pytest

from support.paths import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu_packages.sh"
TOLD = ("HOME", "USER", "TRITON_HOME", "TRITON_CACHE_DIR", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "DATA")
LACKING = """
import sys
from importlib import metadata

sys.modules["bitsandbytes"] = None
found = metadata.Distribution.from_name


def lacking(name):
    if name in ("hybridopt", "bitsandbytes"):
        raise metadata.PackageNotFoundError(name)
    return found(name)


metadata.Distribution.from_name = lacking

import hybridopt.cli.main
from benchmarks.correctness.case import Case
from benchmarks.correctness.outcome import outcomes

for told in ({"saved": True}, {"lora": 8, "quantization": "nf4"}):
    for row in outcomes(Case("quantized", "frugal", **told), "cpu"):
        print(row["state"], row["said"].partition(":")[0])
"""
NO_PIP = f"""#!/bin/sh
if [ "$1 $2" = "-m pip" ]; then echo "No module named pip" >&2; exit 1; fi
exec {sys.executable} "$@"
"""


@pytest.fixture
def told(tmp_path):
    """Runs the script in an empty repository with some variables; returns what it sets, and what it has brought."""
    for name in ("hybridopt", "integrations", "benchmarks", "wheels"):
        (tmp_path / "here" / name).mkdir(parents=True)
    python = tmp_path / "python"
    python.write_text(NO_PIP)
    python.chmod(0o755)
    with zipfile.ZipFile(tmp_path / "here" / "wheels" / "a_wheel-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("a_wheel/__init__.py", "")

    def run(**variables):
        environment = {"PATH": os.environ["PATH"], "PYTHON": str(python), "KEEP": str(tmp_path / "kept")} | variables
        said = "; ".join([*(f'echo "${{{name}-unset}}"' for name in TOLD), 'ls "$site"', 'ls -d "$keep"'])
        command = ["bash", "-c", f"set -uo pipefail; source {SCRIPT}; {said}"]
        done = subprocess.run(
            command, cwd=tmp_path / "here", env=environment, capture_output=True, text=True, check=True
        )
        lines = done.stdout.splitlines()
        return dict(zip(TOLD, lines, strict=False)), lines[len(TOLD) :]

    return run


def test_a_machine_without_a_home_and_without_pip(told, tmp_path):
    found, brought = told()
    kept = str(tmp_path / "kept")
    assert found["HOME"] == found["TRITON_HOME"] == kept and found["USER"] == "user"
    assert found["TRITON_CACHE_DIR"] == f"{kept}/triton" and found["CUDA_VISIBLE_DEVICES"] == "0"
    assert 1 <= int(found["OMP_NUM_THREADS"]) <= 16 and found["DATA"] == "unset"
    assert brought == ["a_wheel", "benchmarks", "hybridopt", kept]


def test_what_is_set_stays_and_kernels_are_kept_where_files_can_be_written(told, tmp_path):
    (tmp_path / "here" / "shared" / "data").mkdir(parents=True)
    found, brought = told(HOME="/h", CUDA_VISIBLE_DEVICES="", OMP_NUM_THREADS="3", KEEP="/dev/null/kept")
    assert (found["HOME"], found["CUDA_VISIBLE_DEVICES"], found["OMP_NUM_THREADS"]) == ("/h", "", "3")
    assert found["DATA"] == str(tmp_path / "here" / "shared" / "data")
    assert found["TRITON_CACHE_DIR"].startswith(found["TRITON_HOME"]) and "/dev/null" not in found["TRITON_HOME"]


def test_the_scripts_are_bash():
    for script in ("gpu_packages.sh", "gpu_pretrain.sh"):
        subprocess.run(["bash", "-n", SCRIPT.with_name(script)], check=True)


@pytest.mark.slow  # a process of its own, as versions are found when modules are imported
def test_hybridopt_is_not_installed_there_and_bitsandbytes_is_missing():
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", LACKING]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "ok losses off by 0.0e+00, weights off by 0.0e+00, update off by 0.0e+00",
        "refused wrap",
    ], done.stderr
