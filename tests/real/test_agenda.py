"""What is due later comes in order of time, and in the order of adding within a moment."""

import math

from hypothesis import given
from hypothesis import strategies as st

from bufferlab.real.run.agenda import Agenda


@given(st.lists(st.integers(0, 5)), st.integers(0, 5))
def test_what_is_due_is_taken_in_order_and_the_rest_stays(times_s: list[int], now_s: int) -> None:
    agenda: Agenda[int] = Agenda()
    for number, due_s in enumerate(times_s):
        agenda.add(due_s, number)
    taken = list(agenda.due(now_s))
    assert taken == sorted((one for one, due_s in enumerate(times_s) if due_s <= now_s), key=lambda one: times_s[one])
    left_s = sorted(due_s for due_s in times_s if due_s > now_s)
    assert sorted(agenda.times_s) == left_s
    assert agenda.next_s == min(left_s, default=math.inf)
    assert agenda.last_s == max(left_s, default=-math.inf)


def test_what_is_added_meanwhile_is_taken_as_well_if_it_is_due() -> None:
    agenda: Agenda[str] = Agenda()
    agenda.add(1.0, "first")
    taken = []
    for one in agenda.due(2.0):
        taken.append(one)
        if one == "first":
            agenda.add(1.5, "second")
            agenda.add(2.5, "later")
    assert taken == ["first", "second"]
    assert agenda.times_s == [2.5]
