"""Rows after an error of CUDA: the process that has lost its device ends, and another one does what is left."""

from importlib import import_module

import pytest
import torch

from benchmarks.gpu.machine import look
from benchmarks.gpu.parts import PARTS
from benchmarks.launches import profiled
from benchmarks.shared import lost_device
from benchmarks.shared.lost_device import LOST, end_if_lost, is_lost, release
from benchmarks.shared.records import Records
from benchmarks.staged.measure import Bench
from benchmarks.step import rows as step_rows

ILLEGAL = "AcceleratorError: CUDA error: an illegal memory access was encountered"
COMMANDS = {  # its arguments, what makes a row of it, and what is too much work here
    "train_memory": (["--device", "cpu", "--only", "adamw", "frugal"], "__main__.outcome", "__main__.build"),
    "zeroth_memory": (["--device", "cpu", "--replayed", "0", "--only", "forward", "mezo"], "__main__.outcome", None),
    "trained": (["--device", "cpu", "--only", "adamw", "frugal"], "__main__._outcome", "__main__.made"),
    "launches.profiled": (["--device", "cpu", "--set", "tiny", "--rows", "adamw", "signsgd"], "outcome", None),
    "step": (
        "--device cpu --set tiny --dtypes bf16 --measure --only torch.adamw-fused|torch.sgd-fused".split(),
        "rows.outcome",
        "rows.Bench",
    ),
}


@pytest.mark.parametrize(
    "said", [ILLEGAL, "RuntimeError: Triton Error [CUDA]: misaligned address", "CUDA driver error: x"]
)
def test_errors_after_which_nothing_works(said):
    assert is_lost(said)
    with pytest.raises(SystemExit) as ended:
        end_if_lost({"failed": said})
    assert ended.value.code == LOST


def test_too_little_memory_is_no_such_error():
    end_if_lost({"failed": "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"})
    end_if_lost({"peak_bytes": 1})


def test_memory_of_a_lost_device_is_let_go_of_in_silence(monkeypatch):
    """Otherwise that error would take the place of the row that says why."""

    def lost():
        raise RuntimeError(ILLEGAL)

    monkeypatch.setattr(torch.cuda, "empty_cache", lost)
    release("cuda")


@pytest.mark.parametrize("name", COMMANDS)
def test_another_process_goes_on_after_the_row_that_lost_the_device(name, tmp_path, monkeypatch, capsys):
    arguments, makes, heavy = COMMANDS[name]
    package = name.partition(".")[0]

    def replaced(path, value):
        place, _, attribute = path.rpartition(".")
        module = f"benchmarks.{name}" if not place else f"benchmarks.{package}.{place}"
        monkeypatch.setattr(import_module(module), attribute, value)

    begun = []

    def row(*given):
        begun.append(given)
        return {"failed": ILLEGAL if len(begun) == 1 else "another reason"}

    replaced(makes, row)
    if heavy:
        replaced(heavy, lambda *_: (None, None))
    main = import_module(f"benchmarks.{name}" if "." in name else f"benchmarks.{name}.__main__").main
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--out", str(tmp_path)])
    assert ended.value.code == LOST and len(begun) == 1
    main([*arguments, "--out", str(tmp_path), "--go-on"])
    (file,) = tmp_path.glob("*.jsonl")
    assert [one["failed"] for one in Records(file, ("row",)).all()] == [ILLEGAL, "another reason"]
    assert len(begun) == 2


def test_every_part_that_ends_so_can_go_on():
    """The driver gives --go-on to whatever ends with that status."""
    using = {f"benchmarks.{name}" for name in COMMANDS}
    assert using <= {part.module for part in PARTS}


def test_a_profiler_that_sees_no_launch_says_so(monkeypatch):
    """Zero launches would be within every bound."""
    none = {"launches": 0, "waits": 0, "copies": 0, "sent": 0, "operations": 9, "midway": 0}
    monkeypatch.setattr(profiled, "measure", lambda *_: dict(none))
    monkeypatch.setattr(lost_device, "release", lambda device: None)
    assert "CUPTI" in profiled.outcome("adamw", {"w": (2, 2)}, "cuda")["failed"]
    assert "failed" not in profiled.outcome("adamw", {"w": (2, 2)}, "cpu")


@pytest.mark.parametrize("name", ["cudaLaunchKernel_v7000", "cudaLaunchKernelExC_v11060", "cuLaunchKernelEx_ptsz"])
def test_names_of_launches_with_versions(name):
    assert profiled.kind_of(name) == "launches" and profiled.kind_of("cudaStreamSynchronize_v3020") == "waits"


def test_steps_for_which_there_is_no_memory_cost_only_their_row(monkeypatch):
    class Optimizer:
        def zero_grad(self):
            self.zeroed = True

    def steps(self, tokens):
        raise torch.OutOfMemoryError("CUDA out of memory")

    bench = Bench.__new__(Bench)
    bench.device, bench.optimizer = "cpu", Optimizer()
    monkeypatch.setattr(Bench, "steps", steps)
    assert "out of memory" in bench.outcome(8)["failed"] and bench.optimizer.zeroed


def test_rows_of_steps_that_failed_are_done_again_unless_the_command_goes_on(tmp_path):
    records = step_rows.records_at(tmp_path)
    settings = {"device": "cpu", "set": "tiny", "dtype": "bf16"}
    records.put({"row": "a", "failed": "so", "settings": settings})
    assert [step_rows.done(records, "a", settings, failed) for failed in (False, True)] == [False, True]


def test_a_device_that_says_nothing_is_not_waited_for(monkeypatch):
    monkeypatch.setattr("benchmarks.gpu.machine.SECONDS", 0.01)
    with pytest.raises(SystemExit, match="nvidia-smi"):
        look("cuda")
