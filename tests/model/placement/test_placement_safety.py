"""Placed models under errors, interrupts, threads, forks and the end of the program."""

import gc
import os
import shutil
import subprocess
import sys
import threading
import time
import weakref

import pytest
import torch

import hybridopt
from hybridopt.core.errors import HybridOptError
from hybridopt.model.placement.placed import placed
from hybridopt.model.placement.streaming import prefetch_thread
from hybridopt.model.placement.streaming.sides import Sides
from support.models import batch
from support.placed import WAYS, Trained, adapted, differences, folder, model_at, run, train

both = pytest.mark.parametrize("way", WAYS)


@pytest.fixture(scope="module")
def resident() -> Trained:
    return run("resident", steps=2)


@pytest.fixture(scope="module")
def losses() -> list[float]:
    """Losses of the model without adapters, of five batches."""
    return losses_of(model_at("resident"))


def losses_of(model) -> list[float]:
    with torch.no_grad():
        return [model(**batch(model, size=2, seed=seed)).loss.item() for seed in range(5)]


class Once:
    """Raises an error at the call of a number, and never again."""

    def __init__(self, at, error):
        self.left, self.error = at, error

    def __call__(self, *arguments):
        self.left -= 1
        if self.left == 0:
            raise self.error


@both
@pytest.mark.parametrize("error", [KeyboardInterrupt(), ValueError("a hook")], ids=["interrupt", "error"])
def test_training_goes_on_after_an_error_in_any_pass(way, error, resident):
    model = adapted(model_at(way))
    layers = placed(model).units
    for at in (2, 3):
        once = Once(at, error)
        hooks = [unit.module.mlp.register_forward_hook(once) for unit in layers]
        with pytest.raises(type(error)):
            model(**batch(model, size=2, seed=9)).loss.backward()
        for hook in hooks:
            hook.remove()
        once = Once(at, error)
        hooks = [unit.module.mlp.register_full_backward_hook(once) for unit in layers]
        with pytest.raises(type(error)):
            model(**batch(model, size=2, seed=9)).loss.backward()
        for hook in hooks:
            hook.remove()
        model.zero_grad()
        assert len(placed(model).streamer.near) <= 2
        with torch.no_grad():
            model(**batch(model, size=2, seed=9))
        assert not placed(model).streamer._used.places  # no slot is kept by a pass that failed
    assert differences(train(model, 2), resident) == []


def test_an_interrupt_when_memory_was_just_taken_leaves_none(monkeypatch):
    model, fill = model_at("staged"), Sides.fill
    streamer = placed(model).streamer

    def interrupted(sides):
        fill(sides)
        raise KeyboardInterrupt

    monkeypatch.setattr(Sides, "fill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        streamer.need(streamer.units[0])
    assert {sides.memory.untyped_storage().nbytes() for sides in streamer.backend._sides.values()} == {0}


@both
def test_an_error_while_a_layer_is_fetched_names_it(way, resident, monkeypatch):
    model = adapted(model_at(way))
    backend = placed(model).streamer.backend
    fetch, name = backend.fetch, placed(model).units[2].name

    def fails(unit):
        if unit.name == name:
            raise OSError(5, "Input/output error")
        fetch(unit)

    monkeypatch.setattr(backend, "fetch", fails)
    with pytest.raises(HybridOptError, match=rf"{name} cannot be fetched.*Input/output error") as caught:
        model(**batch(model, size=2, seed=9))
    assert isinstance(caught.value.__cause__, OSError)
    monkeypatch.setattr(backend, "fetch", fetch)
    assert differences(train(model, 2), resident) == []


def touched(file):
    os.utime(file, ns=(1, 1))


def replaced(file):
    copy = file.with_suffix(".copy")
    copy.write_bytes(file.read_bytes())
    os.replace(copy, file)


def cut(file):
    os.truncate(file, file.stat().st_size - 1)  # within its last page


@pytest.mark.parametrize("change", [touched, replaced, cut, os.unlink])
def test_a_base_that_changes_is_an_error_at_the_next_use_of_a_layer(change, tmp_path):
    own = shutil.copytree(folder(), tmp_path / "llama")
    model = adapted(model_at("mapped", path=own, slots=5))
    model(**batch(model, size=2, seed=0)).loss.backward()
    found, text = placed(model), r"layers\.0 cannot be {}: .*model\.safetensors .*last checkpoint"
    found.streamer.settle()
    fetches = found.traffic.fetches
    change(own / "model.safetensors")
    for what in ("used", "fetched"):  # near; it is brought to rest then
        with pytest.raises(HybridOptError, match=text.format(what)):
            model(**batch(model, size=2, seed=1))
    assert found.traffic.fetches == fetches


@both
def test_a_model_that_nobody_has_any_more_is_gone_and_its_thread_too(way):
    gc.collect()  # of other tests
    before = {thread for thread in threading.enumerate() if thread.name == "hybridopt-placement"}
    model = model_at(way)
    model.model.layers[0].knows = [model]  # layers may know their model
    losses_of(model)
    known = weakref.ref(model)
    threads = {thread for thread in threading.enumerate() if thread.name == "hybridopt-placement"} - before
    del model
    end = time.monotonic() + 5
    while known() is not None and time.monotonic() < end:  # what is being fetched is kept until it is
        gc.collect()
    assert known() is None
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()


@both
def test_two_models_of_one_folder_do_not_disturb_one_another(way, losses):
    one, two = model_at(way), model_at(way, slots=3)
    with torch.no_grad():
        for seed, expected in enumerate(losses):
            for model in (one, two):
                assert model(**batch(model, size=2, seed=seed)).loss.item() == expected
    del one
    gc.collect()
    assert losses_of(two) == losses


@both
def test_several_threads_compute_with_a_model_at_once(way, losses):
    model, found = model_at(way, slots=3), {}

    def compute(number):
        found[number] = losses_of(model)

    threads = [threading.Thread(target=compute, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(3), losses)
    assert len(placed(model).streamer.near) <= 3


@both
def test_a_backward_pass_in_a_thread_of_its_own(way):
    expected, model = model_at("resident"), model_at(way)
    gradients = []
    for each in (expected, model):
        each.requires_grad_(False)
        inputs = torch.zeros(1, 4, 64, dtype=torch.bfloat16, requires_grad=True)
        output = each.model(inputs_embeds=inputs).last_hidden_state.sum()
        thread = threading.Thread(target=output.backward)
        thread.start()
        thread.join()
        gradients.append(inputs.grad)
    assert torch.equal(*gradients)


@both
def test_a_forked_child_computes_and_the_parent_goes_on(way, losses):
    model = model_at(way)
    model(**batch(model, size=2, seed=0))
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if losses_of(model) == losses else 2
        finally:
            os._exit(code)
    assert losses_of(model) == losses
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


BUSY = """
import runpy, sys, threading, time
prefetch_thread = runpy.run_path(sys.argv[1])["Helper"]()
begun = threading.Event()
prefetch_thread.submit(lambda: (begun.set(), time.sleep(float(sys.argv[2]))))
prefetch_thread.submit(lambda: print("not begun"))
begun.wait()
print("over", flush=True)
"""


def test_the_program_ends_while_something_is_fetched():
    found = subprocess.run(
        [sys.executable, "-c", BUSY, prefetch_thread.__file__, "0.2"], capture_output=True, text=True, timeout=9
    )
    assert (found.returncode, found.stdout.splitlines()[0], found.stderr) == (0, "over", "")


def test_a_disk_that_never_answers_does_not_keep_the_program():
    code = BUSY.replace('["Helper"]()', '["Helper"]()\nprefetch_thread.end.__globals__["PATIENCE"] = 0.2')
    found = subprocess.run(
        [sys.executable, "-c", code, prefetch_thread.__file__, "60"], capture_output=True, text=True, timeout=9
    )
    assert (found.returncode, found.stdout, found.stderr) == (0, "over\n", "")


def test_a_backward_pass_after_unwrap_is_refused_and_not_wrong():
    model = model_at("staged").requires_grad_(False)
    inputs = torch.zeros(1, 4, 64, dtype=torch.bfloat16, requires_grad=True)
    output = model.model(inputs_embeds=inputs).last_hidden_state.sum()
    placed(model).end()
    with pytest.raises(HybridOptError, match="not placed any more.*compute the loss again"):
        output.backward()


def test_weights_are_not_written_beyond_what_a_drive_endures(tmp_path):
    model = model_at("mapped", cache=tmp_path, write_every=1, allow_writes="1KB")
    model = hybridopt.wrap(model.eval(), policy="mezo")
    optimizer = model.hybrid.optimizer(lr=1e-3)
    with pytest.raises(HybridOptError, match="would write .* more.*allow_writes='1KB' allows no more"):
        for seed in range(3):
            optimizer.step(lambda seed=seed: model(**batch(model, size=2, seed=seed)).loss)
    assert placed(model).traffic.written == 0
