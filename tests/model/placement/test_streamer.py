"""Slots, errors and interrupts of the streamer, with units that hold nothing."""

import gc
import random
import sys
import threading
import time
import weakref
from types import SimpleNamespace

import pytest
import torch

from hybridopt.core.errors import HybridOptError
from hybridopt.model.placement.streaming import pending_updates, transfers, units_in_use
from hybridopt.model.placement.streaming import streamer as module
from hybridopt.model.placement.streaming.units_in_use import InUse
from support.fake_backend import SIZE, Alone, Fake, fake_streamer

THERE_AND_BACK = [0, 1, 2, 3, 4, 4, 3, 2, 1, 0]


def visit(streamer, place):
    streamer.need(streamer.units[place])
    assert streamer.backend.state[streamer.units[place]] == "bound"
    streamer.done(streamer.units[place])


def check(streamer, uncounted=0):
    """Every unit is near, on its way, or at rest, and the counters say what was fetched, but for so many fetches."""
    backend, near = streamer.backend, set(streamer.near)
    for unit in streamer.units:
        assert (backend.state[unit] != "rest") == (unit in near), unit.name
    assert len(near) <= streamer.placement.slots and backend.most <= streamer.placement.slots
    streamer.settle()
    assert streamer.traffic.read - SIZE * streamer.traffic.fetches in (0, SIZE * uncounted)
    assert streamer._between is None


def goes_on(streamer, uncounted=0):
    """Whatever has happened: all units can be used, and brought to rest."""
    for place in THERE_AND_BACK:
        visit(streamer, place % len(streamer.units))
    streamer.rest()
    check(streamer, uncounted)
    assert set(streamer.backend.state.values()) == {"rest"} and not streamer.near


@pytest.mark.parametrize("backend", [Fake, Alone])
@pytest.mark.parametrize("call", ["open", "fetch", "bind", "rest"])
def test_any_call_may_fail(call, backend):
    draw = random.Random(call)
    for _ in range(60):
        streamer = fake_streamer(5, draw.choice([2, 3, 5]), draw.choice([0, 1]), backend)
        streamer.backend.fails[call, draw.randrange(5)] = draw.choice([OSError("EIO"), KeyboardInterrupt()])
        raised = 0
        for place in [draw.randrange(5) for _ in range(6)] + THERE_AND_BACK:
            try:
                visit(streamer, place)
            except (OSError, HybridOptError, KeyboardInterrupt):
                raised += 1
                if call != "rest":  # what could not be brought to rest is at the next call
                    check(streamer)
        assert raised <= 2  # of an error while another one is told, and no more than that
        streamer.backend.fails.clear()
        goes_on(streamer)
        streamer.close()


class Interrupt:
    """Raises KeyboardInterrupt before the line of a number, of those of the streamer and of the backend."""

    def __init__(self, at, *others):
        self.at, self.lines = at, 0
        self.files = {
            each.__file__ for each in (module, transfers, sys.modules[Fake.__module__], sys.modules[__name__], *others)
        }

    def __call__(self, frame, event, argument):
        if frame.f_code.co_filename in self.files and frame.f_code.co_name not in ("visit", "<lambda>"):
            return self.line
        return None

    def line(self, frame, event, argument):
        if event == "line":
            self.lines += 1
            if self.lines == self.at:
                raise KeyboardInterrupt
        return self.line


class Valued(Alone):
    """Units of one number, which is copied when they are near."""

    def adopt(self, unit):
        super().adopt(unit)
        unit.pieces[0].tensor = torch.zeros(1)
        self.values = {**getattr(self, "values", {}), unit: unit.pieces[0].tensor.data}

    def bind(self, unit):
        super().bind(unit)
        unit.pieces[0].tensor.data = self.values[unit].clone()

    def write(self, unit, pieces):
        """Do nothing: what is near is a copy."""

    def keep(self, unit, pieces):
        self.values[unit].copy_(pieces[0].tensor.data)

    def rest(self, unit):
        super().rest(unit)
        unit.pieces[0].tensor.data = self.values[unit]


def updated(at):
    """Return the numbers after three updates of each, and whether all was over before the line of the interrupt."""
    streamer, trace, over = fake_streamer(3, 2, 1, Valued), Interrupt(at, pending_updates), False
    for step in range(2):
        for unit in streamer.units:
            x = unit.pieces[0].tensor
            streamer.outstanding.note(unit, unit.pieces[0], lambda x=x: x.data.mul_(3).add_(1), step)
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for place in (0, 1, 2):
            visit(streamer, place)
        streamer.catch_up()
        over = True
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    streamer.catch_up()
    return [unit.pieces[0].tensor.item() for unit in streamer.units], over


def test_an_interrupt_at_any_line_loses_no_update_and_makes_none_twice():
    at, over, refused = 1, False, 0
    while not over:
        try:
            values, over = updated(at)
            assert values == [4.0] * 3, at
        except HybridOptError as error:  # half written
            assert "were being written" in str(error)
            refused += 1
        at += 1
    assert at > 200 and refused < 20


def interrupted(at, backend):
    """Return whether the whole sequence of visits was over before the line at which it is interrupted."""
    streamer, trace, over = fake_streamer(4, 2, 1, backend), Interrupt(at), False
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        for place in (0, 1, 2, 0):
            visit(streamer, place)
        streamer.rest()
        over = True
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(before)
    goes_on(streamer, uncounted=not backend.threaded)  # one that was cut off after it was read
    streamer.close()
    return over


@pytest.mark.parametrize("backend", [Fake, Alone])
def test_an_interrupt_at_any_line_leaves_what_goes_on(backend):
    at = 1
    while not interrupted(at, backend):
        at += 3 if backend is Fake else 1  # the lines are the same, and every thread takes time
    assert at > 150  # lines that were tried


def test_an_error_of_the_helper_is_told_when_its_unit_is_needed():
    streamer = fake_streamer()
    cause = OSError(5, "Input/output error")
    streamer.backend.fails["fetch", 1] = cause
    visit(streamer, 0)
    with pytest.raises(HybridOptError, match=r"layers\.1 cannot be fetched: .*Input/output error") as caught:
        visit(streamer, 1)
    assert caught.value.__cause__ is cause
    check(streamer)
    visit(streamer, 1)  # the disk is well again
    goes_on(streamer)


def test_an_error_names_the_file():
    streamer = fake_streamer()
    streamer.units[2].pieces[0].file = "model-00001.safetensors"
    streamer.backend.fails["fetch", 2] = OSError(5, "Input/output error")
    with pytest.raises(HybridOptError, match=r"layers\.2 cannot be fetched from model-00001\.safetensors: "):
        visit(streamer, 2)


def test_an_error_of_a_unit_that_nobody_needs_is_not_told():
    streamer = fake_streamer(slots=2)
    streamer.backend.fails["fetch", 1] = OSError(5, "Input/output error")
    visit(streamer, 0)
    for place in (2, 3, 4, 0):
        visit(streamer, place)
    streamer.rest()
    check(streamer)


@pytest.mark.parametrize("needed", [3, None])
def test_what_is_on_its_way_is_waited_for(needed):
    streamer = fake_streamer(slots=2)
    gate = streamer.backend.gates[1] = threading.Event()
    visit(streamer, 0)
    while streamer.backend.fetching is not streamer.units[1]:
        time.sleep(0.001)
    threading.Timer(0.02, gate.set).start()
    if needed is None:
        streamer.rest()  # a fetch is never cut off
    else:
        visit(streamer, needed)
        assert streamer.traffic.waited > 0.01
    check(streamer)


def test_waiting_after_an_error_that_could_not_be_mended_does_not_hang():
    streamer = fake_streamer()
    streamer.backend.fails |= {("open", 0): KeyboardInterrupt(), ("rest", 0): OSError("stuck")}
    with pytest.raises(OSError, match="stuck"):
        visit(streamer, 0)
    streamer.settle()
    check(streamer)


def test_units_that_all_have_a_slot_are_fetched_once():
    streamer = fake_streamer(5, 5)
    goes = THERE_AND_BACK * 3
    for place in goes:
        visit(streamer, place)
    assert streamer.traffic.fetches == 5
    assert [call for call, _ in streamer.backend.calls].count("rest") == 0


def test_training_fetches_what_the_slots_cannot_hold(monkeypatch):
    streamer, count = fake_streamer(5, 3), []
    for _ in range(4):
        for backward, places in ((False, range(5)), (True, range(4, -1, -1))):
            monkeypatch.setattr(module, "in_backward", lambda backward=backward: backward)
            for place in places:
                visit(streamer, place)
        streamer.settle()
        count.append(streamer.traffic.fetches)
    assert count == [5 + 2, 7 + 4, 11 + 4, 15 + 4]
    assert all(call != "rest" or place in (0, 1, 3, 4) for call, place in streamer.backend.calls)


def test_a_unit_that_another_thread_computes_with_keeps_its_slot():
    streamer = fake_streamer(6, 2, 0)
    reached, go_on = threading.Event(), threading.Event()

    def compute():
        streamer.need(streamer.units[0])
        reached.set()
        go_on.wait(10)
        assert streamer.backend.state[streamer.units[0]] == "bound"
        streamer.done(streamer.units[0])

    thread = threading.Thread(target=compute)
    thread.start()
    assert reached.wait(10)
    for place in (1, 2, 3, 4, 5):
        visit(streamer, place)
        assert streamer.backend.state[streamer.units[0]] == "bound"
    go_on.set()
    thread.join()
    goes_on(streamer)


def test_more_threads_than_slots_are_refused():
    streamer, reached, go_on = fake_streamer(6, 2, 0), threading.Barrier(3), threading.Event()

    def compute(place):
        streamer.need(streamer.units[place])
        reached.wait(10)
        go_on.wait(10)
        streamer.done(streamer.units[place])

    threads = [threading.Thread(target=compute, args=(place,)) for place in (0, 1)]
    for thread in threads:
        thread.start()
    reached.wait(10)
    with pytest.raises(HybridOptError, match="slots=2: more threads .* give slots=3"):
        streamer.need(streamer.units[2])
    check(streamer)
    go_on.set()
    for thread in threads:
        thread.join()
    goes_on(streamer)


def test_backward_passes_that_failed_give_way():
    streamer = fake_streamer(6, 2, 0)
    visit(streamer, 0)
    visit(streamer, 1)
    streamer._used._threads |= {-1, -2}  # with threads about, one cannot tell whether passes are over
    streamer._used._used |= {-11: 0, -12: 1}
    visit(streamer, 2)
    check(streamer)


def test_each_thread_may_be_in_a_pass_within_a_pass(monkeypatch):
    used, now = InUse(), [(-1, 1)]
    monkeypatch.setattr(units_in_use, "caller", lambda: now[0])
    monkeypatch.setattr(
        torch.autograd.Variable, "_execution_engine", SimpleNamespace(queue_callback=lambda call: None)
    )
    for place, now[0] in enumerate([(-1, 1), (-1, 2), (10, 1), (11, 2), (12, 1), (13, 2)]):
        used.begin(place)
    assert used.places == {2, 3, 4, 5}
    now[0] = 14, 1
    used.begin(6)  # more than can be: the oldest has failed
    assert used.places == {3, 4, 5, 6}


def test_many_threads_at_once_keep_to_the_slots():
    streamer, failed = fake_streamer(6, 4, 1), []

    def work(seed):
        draw = random.Random(seed)
        try:
            for _ in range(100):
                visit(streamer, draw.randrange(6))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    streamer.settle()
    check(streamer)
    goes_on(streamer)


def test_two_streamers_do_not_know_of_one_another():
    one, two = fake_streamer(), fake_streamer(4, 2)
    for place in THERE_AND_BACK * 2:
        visit(one, place)
        visit(two, place % 4)
    check(one)
    one.close()
    goes_on(two)


def helpers():
    return [thread for thread in threading.enumerate() if thread.name == "hybridopt-placement"]


def test_the_helper_ends_with_its_streamer():
    streamer = fake_streamer()
    visit(streamer, 0)
    thread, gone = streamer._helper._thread, weakref.ref(streamer)
    assert thread in helpers()
    del streamer
    gc.collect()
    thread.join(5)
    assert gone() is None and not thread.is_alive()


def test_a_closed_streamer_says_so():
    streamer = fake_streamer()
    visit(streamer, 0)
    thread = streamer._helper._thread
    streamer.close()
    streamer.close()
    assert not thread.is_alive()
    with pytest.raises(HybridOptError, match=r"layers\.1 is not placed any more"):
        streamer.need(streamer.units[1])


def test_a_unit_that_was_given_up_is_not_fetched_by_those_that_are_left():
    streamer = fake_streamer()
    visit(streamer, 0)
    given_up, other = streamer.units[1], streamer.units[2]
    left = streamer.without(given_up)
    left.need(other)
    with pytest.raises(HybridOptError, match=r"layers\.1 is not placed any more.*compute the loss again"):
        left.need(given_up)


def test_an_empty_visit_takes_less_than_a_millisecond():
    streamer = fake_streamer(80, 80)
    for place in range(80):
        visit(streamer, place)
    began = time.thread_time()
    for place in range(80):
        visit(streamer, place)
    assert (time.thread_time() - began) / 80 < 1e-3  # it takes about 5 microseconds
