"""Kernels whose making was begun while steps went on."""

import os
import time
import warnings
from threading import BoundedSemaphore, Event

import pytest

from hybridopt import HybridOptWarning
from hybridopt.execution.cpp import ahead, builder, compiler

TEXT = 'extern "C" void hybridopt_run(const void*) {}\n'


@pytest.fixture(autouse=True)
def fresh(nothing_built, monkeypatch):
    monkeypatch.setattr(ahead, "_begun", {})
    monkeypatch.setattr(ahead, "_room", [BoundedSemaphore(2)])
    monkeypatch.setattr(ahead, "_ended", Event())
    return nothing_built


def called(path, monkeypatch, text):
    """Let a script be the compiler, which notes that it was called."""
    script = path / "cxx"
    script.write_text(f'#!/bin/sh\n[ "$1" = --version ] || echo called >> {path}/calls\n{text}\nexec g++ "$@"\n')
    script.chmod(0o700)
    monkeypatch.setenv("CXX", str(script))
    return path / "calls"


def test_a_kernel_that_was_begun_is_made_once(fresh, monkeypatch):
    calls = called(fresh, monkeypatch, "")
    builder.begin([TEXT, TEXT])
    builder.begin([TEXT])
    builder.build([TEXT])
    assert callable(builder.function(TEXT)) and calls.read_text() == "called\n"
    builder.begin([TEXT])
    assert not ahead._begun  # it is known


def test_nobody_waits_for_what_was_begun(fresh, monkeypatch):
    called(fresh, monkeypatch, f"while [ ! -e {fresh}/go ]; do sleep 0.05; done")
    (fresh / "go").touch()
    compiler.compiler()
    (fresh / "go").unlink()
    builder.begin([TEXT])
    assert builder.function(TEXT) is None and not ahead._begun[TEXT][0].done()
    (fresh / "go").touch()
    builder.build([TEXT])
    assert builder.function(TEXT)


def test_what_goes_wrong_is_said_where_it_is_missed(fresh, monkeypatch):
    called(
        fresh,
        monkeypatch,
        'for x; do case "$x" in *.cpp) ! grep -q hybridopt_run.const.void "$x" || exit 1;; esac; done',
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        builder.begin([TEXT])
        ahead._begun[TEXT][1].join()
    with pytest.warns(HybridOptWarning, match="are not compiled, and slower"):
        builder.build([TEXT])
    assert builder.refused == {TEXT} and builder.available()


def test_the_end_of_a_process_ends_compilers(fresh, monkeypatch):
    called(fresh, monkeypatch, '[ "$1" = --version ] || exec sleep 60')
    builder.begin([TEXT + "\n" * i for i in range(5)])  # more than there is room for at once
    while len(compiler._running) < 2:
        time.sleep(0.01)
    running, threads = list(compiler._running), [thread for _, thread in ahead._begun.values()]
    start = time.monotonic()
    ahead._end()
    assert all(one.poll() is not None for one in running) and time.monotonic() - start < 30
    assert not compiler._running and not any(thread.is_alive() for thread in threads)  # none takes another's place
    assert not list((fresh / "kernels").glob(".begun-*"))


def test_a_compiler_that_was_stopped_together_with_others_is_called_again(fresh, monkeypatch):
    called(fresh, monkeypatch, f'[ "$1" = --version ] || [ -e {fresh}/go ] || exec sleep 60')
    builder.begin([TEXT])
    while not compiler._running:
        time.sleep(0.01)
    compiler.stop()  # as Ctrl-C does to those that somebody waits for
    ahead._begun[TEXT][1].join()
    (fresh / "go").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        builder.build([TEXT])
    assert builder.function(TEXT) and not builder.refused


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_forked_child_makes_its_own_and_leaves_its_parent_s_alone(fresh, monkeypatch):
    called(fresh, monkeypatch, f'[ "$1" = --version ] || while [ ! -e {fresh}/go ]; do sleep 0.05; done')
    builder.begin([TEXT])
    while not compiler._running:
        time.sleep(0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads
        child = os.fork()
    if not child:
        os._exit(0 if not ahead._begun and not compiler._running and ahead._room[0].acquire(blocking=False) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    (fresh / "go").touch()
    builder.build([TEXT])
    assert builder.function(TEXT)
