"""Whatever is wrong with compiler or cache: the same results by today's way, and one warning with the cure."""

import ctypes
import json
import os
import shutil
import signal
import stat
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from hybridopt import HybridOptimizer, HybridOptWarning, Policy, Route, Treatment
from hybridopt.cli.doctor.checks.cpp import cpp
from hybridopt.execution.backends.cpp import Cpp
from hybridopt.execution.cpp import builder, compiler
from hybridopt.execution.cpp.cache import LIBRARY, RECORD, SOURCE, KernelFolder, folder, key_of
from hybridopt.parts import Lion, SignSGD

TEXT = 'extern "C" void hybridopt_run(const void*) {}\n'


@pytest.fixture(autouse=True)
def fresh(nothing_built):
    return nothing_built


def program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o700)
    return str(path)


def stepped(compile, policy="lion"):
    """The weight after a step."""
    p = torch.nn.Parameter(torch.linspace(-1, 1, 12).view(3, 4))
    optimizer = HybridOptimizer([("w", p)], lr=0.1, policy=policy, compile=compile)
    p.grad = torch.linspace(1, -2, 12).view(3, 4)
    optimizer.step()
    return p.detach(), optimizer, p


BAD = {
    "none": ("", "there is no C\\+\\+ compiler"),
    "fails": ('[ "$1" = --version ] || { echo "x.cpp:1: error: no such thing"; exit 1; }', "failed.*no such thing"),
    "old": ('[ "$1" = --version ] || { echo "unrecognized option -std=c++17"; exit 4; }', "failed.*unrecognized"),
    "hangs": ('[ "$1" = --version ] || sleep 60', "has not ended after 0.3 s"),
    "lies": ("exit 0", "said that it has made"),
    "makes nonsense": (
        'while [ "$1" != -o ] && [ $# -gt 1 ]; do shift; done; [ $# -lt 2 ] || echo nonsense > "$2"',
        "cannot be loaded",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_compiler_that_makes_no_kernels(case, fresh, monkeypatch):
    text, said = BAD[case]
    monkeypatch.setattr(compiler, "SECONDS", 0.3 if case == "hangs" else 60)
    monkeypatch.setenv("CXX", program(fresh / "cxx", text) if text else str(fresh / "missing"))
    with pytest.warns(HybridOptWarning, match=f"{said}.*[)][.] Install g\\+\\+.*compile=False") as told:
        weight, optimizer, p = stepped(True)
    assert len([one for one in told if one.category is HybridOptWarning]) == 1
    assert weight.equal(stepped(False)[0]) and not builder.available()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.step()
        assert builder.trial().why
    assert cpp(builder.trial()).cure and not list((fresh / "kernels").glob(".begun-*"))


def test_nobody_is_told_who_misses_nothing(fresh, monkeypatch):
    """Torch's own kernel makes the updates, whether a C++ kernel or torch looks at gradients before."""
    monkeypatch.setenv("CXX", str(fresh / "missing"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", HybridOptWarning)
        weight, *_ = stepped(True, "adamw")
    assert weight.equal(stepped(False, "adamw")[0])
    with pytest.warns(HybridOptWarning, match="there is no C\\+\\+ compiler"):
        stepped(True)


@pytest.mark.parametrize("how", ["fails", "makes nonsense"])
def test_a_text_that_does_not_compile_goes_another_way_alone(how, fresh, monkeypatch):
    """The others are compiled, and go on; one warning names the rule."""
    spoilt = {
        "fails": 'echo "x.cpp:1: error: internal compiler error"; exit 1',
        "makes nonsense": 'while [ "$1" != -o ]; do shift; done; echo nonsense > "$2"; exit 0',
    }[how]
    text = f'for last; do case "$last" in *.cpp) grep -q "from Lion" "$last" && {{ {spoilt}; }};; esac; done'
    monkeypatch.setenv("CXX", program(fresh / "cxx", f'{text}\nexec g++ "$@"'))
    ran = []
    run = Cpp.run
    monkeypatch.setattr(Cpp, "run", lambda self, tasks: run(self, ran.extend(tasks) or tasks))
    random = torch.Generator().manual_seed(0)
    values = {name: torch.randn(3, 4, generator=random) for name in ("a", "b")}
    results = {}
    for compile in (True, False):
        params = {name: torch.nn.Parameter(x.clone()) for name, x in values.items()}
        policy = Policy((Route(Treatment(Lion()), name="a"), Route(Treatment(SignSGD()), name="b")))
        optimizer = HybridOptimizer(params.items(), lr=0.1, policy=policy, compile=compile)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            for _ in range(2):
                for p in params.values():
                    p.grad = p.detach().cos()
                optimizer.step()
        results[compile] = [p.detach() for p in params.values()]
        texts = [str(one.message) for one in told if one.category is HybridOptWarning]
        assert len(texts) == compile and all("updates of Lion: flat" in text for text in texts)
        assert all(builder.OTHER in text for text in texts)
    assert builder.available() and [task.stream[1] for task in ran] == ["a", "b", "b"]
    assert all(a.equal(b) for a, b in zip(results[True], results[False], strict=True))


def test_a_kernel_is_made_once_and_found_again(fresh, monkeypatch):
    builder.build([TEXT, TEXT])
    assert builder.function(TEXT) is not None
    (at,) = (fresh / "kernels").iterdir()
    assert stat.S_IMODE((fresh / "kernels").stat().st_mode) == 0o700
    monkeypatch.setattr(compiler.Compiler, "compile", lambda *_: pytest.fail("compiled again"))
    monkeypatch.setattr(builder, "_built", {})
    builder.build([TEXT])
    assert builder.function(TEXT) is not None
    inputs = json.loads((at / RECORD).read_text())["inputs"]
    assert key_of(inputs) == at.name
    for name in inputs:
        assert KernelFolder(fresh / "kernels").load(inputs | {name: "another"}) is None
    assert cpp(builder.Built(1.0, compiler="g++", kept=fresh)).state == "ok"


def damaged(at, how):
    library = at / LIBRARY
    if how in ("half", "changed"):
        whole = library.read_bytes()
        library.unlink()  # this process has it mapped
        library.write_bytes(whole[:1000] if how == "half" else whole + b"\0")
    elif how == "no record":
        (at / RECORD).unlink()
    elif how == "half a record":
        (at / RECORD).write_text('{"inputs": ')
    elif how == "open to others":
        library.chmod(0o777)
    else:
        library.rename(at / "elsewhere.so")
        library.symlink_to(at / "elsewhere.so")


@pytest.mark.parametrize("how", ["half", "changed", "no record", "half a record", "open to others", "a link"])
def test_what_was_not_made_here_is_not_loaded_but_made_anew(how, fresh, monkeypatch):
    builder.build([TEXT])
    (at,) = (fresh / "kernels").iterdir()
    inputs = json.loads((at / RECORD).read_text())["inputs"]
    damaged(at, how)
    place = KernelFolder(fresh / "kernels")
    assert place.load(inputs) is None
    monkeypatch.setattr(builder, "_built", {})
    builder.build([TEXT])
    assert builder.function(TEXT) is not None and place.load(inputs) is not None
    assert [path.name for path in (fresh / "kernels").iterdir()] == [at.name]


def test_several_processes_make_the_same_kernel(fresh):
    place, inputs = KernelFolder(fresh / "kernels"), {"text": "x"}

    def put(number):
        begun = place.begin()
        (begun / LIBRARY).write_bytes(b"library %d" % number)
        place.put(begun, inputs)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(16)))
    at = fresh / "kernels" / key_of(inputs)
    assert json.loads((at / RECORD).read_text())["inputs"] == inputs and (at / LIBRARY).is_file()


@pytest.mark.parametrize("how", ["a file", "open to others", "no home"])
def test_a_folder_that_cannot_be_used_is_left_alone(how, fresh, monkeypatch):
    folder = fresh / "kernels"
    if how == "a file":
        folder.write_text("mine")
    elif how == "open to others":
        folder.mkdir()
        folder.chmod(0o777)
    else:
        monkeypatch.delenv("HYBRIDOPT_KERNELS")
        monkeypatch.setattr(builder, "folder", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    builder._of_this_process.cache_clear()
    with pytest.warns(HybridOptWarning, match="compiled anew by every process. Set HYBRIDOPT_KERNELS"):
        builder.build([TEXT])
    assert builder.function(TEXT) is not None and builder.available()
    assert cpp(builder.trial()).state == "warn"
    assert how != "open to others" or not list(folder.iterdir())


def test_what_was_left_behind_is_removed(fresh):
    place = KernelFolder(fresh / "kernels")
    old, new = place.begin(), place.begin()
    os.utime(old, (0, 0))
    place.begin()
    assert not old.exists() and new.exists()


@pytest.mark.parametrize("umask", [0o002, 0o000])
def test_kernels_are_kept_whatever_the_umask(umask, fresh, monkeypatch):
    before = os.umask(umask)
    try:
        builder.build([TEXT])
    finally:
        os.umask(before)
    assert builder.function(TEXT) is not None
    monkeypatch.setattr(compiler.Compiler, "compile", lambda *_: pytest.fail("compiled again"))
    monkeypatch.setattr(builder, "_built", {})
    builder.build([TEXT])
    assert builder.function(TEXT) is not None


@pytest.mark.parametrize("asked", ["{} -DOWN=1", "{}", "env  OWN='a b' {}", "gcc", "env OWN=1 gcc"])
def test_the_environment_may_name_a_compiler_with_options(asked, fresh, monkeypatch):
    monkeypatch.setenv("CXX", asked.format(shutil.which("g++")))
    text = TEXT + 'extern "C" void throws() { try { throw 1; } catch (...) {} }\n'  # needs the library of C++
    builder.build([text])
    assert builder.function(text) is not None and builder.available()
    assert ("-DOWN=1" in compiler.compiler().options) == ("-DOWN=1" in asked)


def test_kernels_are_compiled_from_the_headers_of_their_digest(fresh, monkeypatch):
    """Those on disk may have changed: a kernel of others would be found by every later process under the same name."""
    text = '#include "same.h"\nextern "C" void hybridopt_run(int* out) { *out = OWN; }\n'
    found = ctypes.c_int()
    for own in (1, 2, 1):  # of which no file knows
        monkeypatch.setattr(builder, "_built", {})
        monkeypatch.setattr(builder, "_skeleton", {"same.h": f"enum {{ OWN = {own} }};\n"})
        builder.build([text])
        builder.function(text)(ctypes.byref(found))
        assert found.value == own
    kept = list((fresh / "kernels").iterdir())
    assert len(kept) == 2 and all({file.name for file in at.iterdir()} == {LIBRARY, RECORD, SOURCE} for at in kept)


def test_ctrl_c_ends_compilers(fresh, monkeypatch):
    at = fresh / "began"
    monkeypatch.setenv("CXX", program(fresh / "cxx", f'[ "$1" = --version ] || {{ touch {at}; sleep 30; }}'))

    def interrupt():
        while not at.exists():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    start = time.perf_counter()
    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        builder.build([TEXT, TEXT + "\n", TEXT + "\n\n"])
    thread.join()
    assert time.perf_counter() - start < 20 and not compiler._running
    assert not list((fresh / "kernels").glob(".begun-*"))


@pytest.mark.parametrize("how", ["full while compiling", "full afterwards"])
def test_without_room_for_kernels_they_are_made_for_this_process(how, fresh, monkeypatch):
    if how == "full while compiling":
        text = f'case "$*" in *{fresh}/kernels/*) echo "ld: final link failed: No space left on device"; exit 1;; esac'
        monkeypatch.setenv("CXX", program(fresh / "cxx", f'{text}\nexec g++ "$@"'))
    else:
        put = KernelFolder.put

        def full(self, begun, inputs):
            if self.path == fresh / "kernels":
                raise OSError(28, "No space left on device")
            put(self, begun, inputs)

        monkeypatch.setattr(KernelFolder, "put", full)
    builder._of_this_process.cache_clear()
    with pytest.warns(HybridOptWarning, match="No space left.*compiled anew by every process") as told:
        builder.build([TEXT])
    assert len(told) == 1 and builder.function(TEXT) is not None and builder.available()


def test_a_folder_that_is_relative_stays_where_it_was(fresh, monkeypatch):
    monkeypatch.chdir(fresh)
    monkeypatch.setenv("HYBRIDOPT_KERNELS", "own")
    assert folder() == fresh / "own"
    monkeypatch.setenv("HYBRIDOPT_KERNELS", "~/own")
    assert folder().is_absolute() and "~" not in str(folder())


WORKING = "for turn in 1 2 3 4 5 6; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; sleep 0.1; done; echo done"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="work is read from /proc")
def test_a_compiler_that_is_slow_because_of_others_is_waited_for(fresh, monkeypatch):
    """Else bits of a run would depend on what else the machine does: only a compiler's own work is counted."""
    monkeypatch.setattr(compiler, "SECONDS", 0.4)
    assert compiler._called([program(fresh / "slow", WORKING)]) == "done"


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="work is read from /proc")
def test_a_compiler_that_works_without_end_is_stopped(fresh, monkeypatch):
    monkeypatch.setattr(compiler, "WORK", 0.1)
    monkeypatch.setattr(compiler, "LOOKED", 0.05)
    path = program(fresh / "endless", "(while :; do :; done)")  # by a child of its own
    with pytest.raises(compiler.CompilerError, match=f"{path} has not ended after 0.1 s of work"):
        compiler._called([path])
    assert not compiler._running
