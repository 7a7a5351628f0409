"""The virtual clock: order, ties, reminders and calls that are taken back. SimPy on it is test_simpy.py's."""

import pytest

from bufferlab.sim.clock import Clock, FunctionCall


def test_calls_come_in_order_of_time_and_ties_in_order_of_scheduling() -> None:
    clock, seen = Clock(), []
    for name, time_s in (("late", 2.0), ("first", 1.0), ("second", 1.0)):
        clock.call_at(time_s, lambda name: seen.append((clock.now, name)), name)
    clock.run_while_busy()
    assert seen == [(1.0, "first"), (1.0, "second"), (2.0, "late")]
    assert clock.events == 3


def test_calls_that_come_last_wait_for_plain_calls_of_the_same_moment() -> None:
    clock, seen = Clock(), []
    clock.call_last_at(1.0, 1, seen.append, "iteration of group 1")
    clock.call_last_at(1.0, 0, seen.append, "iteration of group 0")
    clock.call_at(1.0, lambda: clock.call_after(0.0, seen.append, "a call it made"))
    clock.call_at(1.0, seen.append, "message")
    clock.run_while_busy()
    assert seen == ["message", "a call it made", "iteration of group 0", "iteration of group 1"]


def test_reminders_do_not_keep_the_run_alive_but_come_in_order() -> None:
    clock, seen = Clock(), []
    clock.remind_at(1.0, seen.append, "reminder")
    clock.remind_at(9.0, seen.append, "far")
    clock.call_at(2.0, seen.append, "call")
    clock.run_while_busy()
    assert (seen, clock.now, clock.reminders, clock.busy) == (["reminder", "call"], 2.0, 1, False)
    clock.step()
    assert (seen[-1], clock.now, clock.reminders) == ("far", 9.0, 0)


@pytest.mark.parametrize("time_s", [0.5, float("nan")])
def test_no_call_in_the_past(time_s: float) -> None:
    clock = Clock()
    clock.call_at(1.0, lambda: None)
    clock.run_while_busy()
    for schedule in (clock.call_at, clock.remind_at):
        with pytest.raises(ValueError, match="past"):
            schedule(time_s, print)
    with pytest.raises(ValueError, match="past"):
        clock.call_last_at(time_s, 0, print)
    with pytest.raises(ValueError, match="delay"):
        clock.call_after(-time_s, print)


def test_a_withdrawn_call_is_not_made_and_keeps_no_run_alive() -> None:
    for run in (Clock.run_while_busy, _step_to_the_end):
        clock = Clock()
        made: list[str] = []
        clock.call_at(1.0, made.append, "first")
        withdrawn = clock.call_at(2.0, made.append, "withdrawn")
        clock.call_at(3.0, made.append, "last")
        clock.withdraw(withdrawn)
        clock.withdraw(clock.call_at(9.0, made.append, "withdrawn too"))
        assert (clock.busy, clock.reminders) == (True, 2)
        run(clock)
        assert made == ["first", "last"]
        assert (clock.now, clock.events, clock.busy) == (3.0, 2, False)


def _step_to_the_end(clock: Clock) -> None:
    while clock.busy:
        clock.step()


def test_a_call_that_is_put_aside_comes_in_its_place_and_may_be_put_again() -> None:
    clock, seen = Clock(), []
    often, other = (FunctionCall(seen.append, (name,)) for name in ("often", "other"))
    clock.call_at(1.0, seen.append, "before")
    for _ in range(3):
        clock.withdraw(clock.put_aside_at(9.0, often))
    assert (clock.ahead, clock.reminders) == (1, 0)
    clock.put_aside_at(1.0, often)
    second = clock.put_aside_at(1.0, other)  # there is one place: this one is in the queue
    clock.call_at(1.0, seen.append, "after")
    assert (clock.ahead, clock.peek()) == (4, 1.0)
    clock.run_while_busy()
    assert seen == ["before", "often", "other", "after"]
    clock.put_aside_at(2.0, often)
    clock.withdraw(clock.put_aside_at(1.5, other))
    assert second is not other
    clock.run_while_busy()
    assert (seen[4:], clock.now, clock.ahead) == (["often"], 2.0, 0)
    with pytest.raises(ValueError, match="past"):
        clock.put_aside_at(1.0, often)
