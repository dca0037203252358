"""The order of units, as sequences of visits alone."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from hybridopt.model.placement.streaming.fetch_order import BACKWARD, EVALUATION, FORWARD, Order

few = settings(max_examples=40, deadline=None)


def there_and_back(count):
    forward = [(unit, FORWARD) for unit in range(count)]
    return forward + [(unit, BACKWARD) for unit in reversed(range(count))]


def through(count):
    return [(unit, EVALUATION) for unit in range(count)]


def carried(visits, count, slots, ahead):
    """Return at which visits a unit was fetched, and at which one was asked for that was not near."""
    order, near, fetched, missed = Order(count), [], [], []
    for number, (unit, phase) in enumerate(visits):
        order.asked(unit, phase)
        if unit not in near:
            missed.append(number)
            fetched.append(number)
            if len(near) >= slots:
                near.remove(order.last_used(near))
        else:
            near.remove(unit)
        near.append(unit)
        for _ in range(ahead):
            found = order.ahead(near, {each for each in near if each != unit}, slots, ahead)
            if found is not None:
                wanted, dropped = found
                assert wanted not in near and dropped != unit
                if dropped is not None:
                    near.remove(dropped)
                near.append(wanted)
                fetched.append(number)
                assert len(near) <= slots and len(set(near)) == len(near)
    return fetched, missed


def in_period(numbers, length, which):
    return sum(which * length <= number < (which + 1) * length for number in numbers)


def surprises(visits, count):
    """Return the visits of which the unit was not the one that was expected, but for repeated ones."""
    order, found, last = Order(count), [], None
    for number, (unit, phase) in enumerate(visits):
        expected = next(order.expected(), None)
        if last is not None and (unit, phase) != last and expected != unit:
            found.append(number)
        order.asked(unit, phase)
        last = unit, phase
    return found


@few
@given(st.integers(2, 12), st.integers(1, 3), st.integers(1, 3), st.data())
def test_what_training_repeats_is_known_after_two_periods(count, accumulated, evaluated, data):
    once = data.draw(st.permutations(range(count)))  # layers need not be used in the order of the model
    named = {EVALUATION: once, FORWARD: once, BACKWARD: once}
    period = there_and_back(count) * accumulated + through(count) * evaluated
    visits = [(named[phase][unit], phase) for unit, phase in period * 4]
    late = [number for number in surprises(visits, count) if number >= 2 * len(period)]
    assert len(late) <= 2 * (
        2 if evaluated > 1 else 1
    )  # after the last evaluation another one may follow, or training


@few
@given(st.integers(2, 12), st.sampled_from([there_and_back, through]))
def test_layers_in_sequence_are_known_at_once(count, pattern):
    assert surprises(pattern(count) * 3, count) == []


@few
@given(st.integers(2, 14), st.integers(2, 14), st.integers(0, 3))
def test_training_fetches_as_little_as_can_be(count, slots, ahead):
    slots, ahead = min(slots, count), min(ahead, slots - 1)
    period = there_and_back(count)
    fetched, missed = carried(period * 4, count, slots, ahead)
    assert in_period(fetched, len(period), 0) == count + count - slots
    for which in (1, 2, 3):  # of `count` layers `slots` can be there when a pass begins, whatever is kept
        assert in_period(fetched, len(period), which) == 2 * (count - slots)
        assert not ahead or in_period(missed, len(period), which) == 0


def test_units_are_fetched_as_soon_as_there_is_room_for_them():
    count, slots, period = 12, 6, there_and_back(12)
    fetched, _ = carried(period * 3, count, slots, 1)
    at = [number - 2 * len(period) for number in fetched if number >= 2 * len(period)]
    forward, backward = range(1, count - slots + 1), range(count + 1, 2 * count - slots + 1)
    assert at == [*forward, *backward]  # when a pass has left the first of its units, others follow one by one


@few
@given(st.integers(3, 14), st.integers(2, 14), st.integers(1, 3))
def test_passes_forward_fetch_little_more_than_a_fixed_part_would_ask_for(count, slots, ahead):
    slots = min(slots, count)
    ahead = min(ahead, slots - 1)
    fetched, missed = carried(through(count) * 40, count, slots, ahead)
    late = [number for number in fetched if number >= 20 * count]
    assert len(late) / 20 <= count - (slots - 1 - ahead)  # units that stay, one in use, others on their way
    assert len(late) / 20 >= count * (count - slots) / (count - 1) - 0.1  # Belady's, who fetches nothing in advance
    assert [number for number in missed if number >= count] == []


def test_random_sequences_are_kept_in_bounds():
    draw, order, count = random.Random(0), Order(40), 40
    for _ in range(20_000):
        order.asked(draw.randrange(count), draw.randrange(3))
    assert len(order._next) <= 8 * count + 64


@few
@given(st.integers(1, 6), st.lists(st.tuples(st.integers(0, 5), st.integers(0, 2)), max_size=60), st.integers(2, 4))
def test_any_sequence_keeps_to_the_slots(count, visits, slots):
    visits = [(unit % count, phase) for unit, phase in visits]
    carried(visits, count, slots, slots - 1)


def test_layers_left_out_at_random_are_mostly_known():
    draw, visits = random.Random(1), []
    for _ in range(30):
        kept = [unit for unit in range(12) if draw.random() > 0.1]
        visits += [(unit, FORWARD) for unit in kept] + [(unit, BACKWARD) for unit in reversed(kept)]
    assert len(surprises(visits, 12)) < 0.25 * len(visits)


def test_before_anything_is_asked_for_nothing_is_expected():
    assert list(Order(3).expected()) == [] and Order(3).ahead([], [], 2, 1) is None
