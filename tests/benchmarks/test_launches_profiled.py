"""What a profiler saw is counted within the step, and held to the bounds of the count without a GPU."""

from benchmarks.launches import profiled
from benchmarks.launches.profiled import BACKWARD, STEP, counted
from benchmarks.launches.rows import ROWS
from benchmarks.launches.scaled import ALL, ONCE, PROFILED, scaled
from benchmarks.shared.llama import SETS


def test_only_the_step_is_counted_and_each_thing_once():
    inside = ["cuLaunchKernelEx", "cudaLaunchKernel", "aten::add", "cudaStreamSynchronize", "triton_kernel"]
    events = [
        ("cudaLaunchKernel", 5, 6),
        (STEP, 15, 40),
        (STEP, 10, 20),
        ("cudaDeviceSynchronize", 21, 30),
        ("aten::add", 22, 23),
    ]
    events += [(name, 12, 13) for name in inside]
    events += [("Memcpy HtoD (Pageable -> Device)", 12, 14), ("Memcpy HtoD (Pinned -> Device)", 25, 26)]
    assert counted(events) == {"launches": 2, "waits": 0, "copies": 1, "sent": 1, "operations": 1, "midway": 0}
    waits = [(STEP, 0, 9), ("cudaStreamSynchronize", 1, 2), ("cudaStreamSynchronize", 3, 4)]
    assert counted(waits)["waits"] == 2 and counted(waits)["midway"] == 0
    within = [*waits, (BACKWARD, 2, 6), ("cudaStreamSynchronize", 7, 8)]
    assert (counted(within)["waits"], counted(within)["midway"]) == (3, 1)


def test_bounds_are_those_of_8b_by_the_number_of_tensors():
    most = ROWS["adamw"].most
    assert ALL == 291 and scaled("adamw", ALL)["launches"] == most["compiled"] + most["launches"] + ONCE
    tensors = len(SETS["8b-2"].shapes)
    assert tensors == 21 and 100 < scaled("adamw", tensors)["launches"] < 200
    assert scaled("adamw", tensors)["waits"] == most["waits"] and scaled("mezo", 3) == {"waits": 2, "copies": 2}
    most = ROWS["adalomo"].most
    assert scaled("adalomo", ALL)["launches"] == 4 * most["compiled"] + most["launches"] + ONCE, "four kernels a call"
    assert set(PROFILED) <= ROWS.keys()


def test_a_step_is_counted_on_a_cpu_and_an_error_is_a_row(monkeypatch):
    found = profiled.outcome("signsgd", SETS["tiny"].shapes, "cpu")
    assert found["counts"]["operations"] > 20 and found["counts"]["launches"] == 0 and found["most"]["waits"] == 1
    fused = profiled.outcome("signsgd, fused", SETS["tiny"].shapes, "cpu")
    assert fused["counts"]["operations"] > 20 and fused["most"]["midway"] == 0
    monkeypatch.setattr(profiled, "measure", lambda *_: 1 / 0)
    assert profiled.outcome("signsgd", {}, "cpu") == {"failed": "ZeroDivisionError: division by zero"}
