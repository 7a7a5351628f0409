"""How busy servers were, against intervals added up by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bufferlab.protocol.observe.pooluse import MOST_BATCHES
from bufferlab.protocol.observe.stageuse import StageUse

JOBS = st.lists(st.tuples(st.floats(0.0, 20.0), st.floats(1e-6, 5.0)), min_size=1, max_size=40)


@settings(max_examples=60)
@given(JOBS, st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_one_server_first_come_first_served(jobs: list[tuple[float, float]], start_s: float, rest_s: float) -> None:
    use = StageUse(1)
    use.start_s = start_s
    free_s, busy = 0.0, []
    for came_s, lasts_s in sorted(jobs):
        begin_s = max(came_s, free_s)
        free_s = begin_s + lasts_s
        busy.append((begin_s, free_s))
        use.serve(0, came_s, free_s)
    end_s = max(free_s, start_s) + rest_s
    counted = sum(max(end - max(begin, start_s), 0.0) for begin, end in busy)
    assert use.busy_s == pytest.approx(counted, rel=1e-9, abs=1e-9)
    use.finish(end_s)
    assert len(use.batches) <= MOST_BATCHES
    for number in {0, len(use.batches) - 1} if use.batches else ():
        low, high = start_s + number * use.batch_s, start_s + (number + 1) * use.batch_s
        within = sum(max(min(end, high) - max(begin, low), 0.0) for begin, end in busy)
        assert use.batches[number] == pytest.approx(within, rel=1e-6, abs=1e-9)


@settings(max_examples=60)
@given(JOBS, st.integers(1, 3))
def test_servers_with_one_queue_do_all_of_the_work(jobs: list[tuple[float, float]], count: int) -> None:
    use = StageUse(count)
    use.start_s = 0.0
    free_s = [0.0] * count
    done = []
    for came_s, lasts_s in sorted(jobs):
        server = min(range(count), key=lambda number: free_s[number])
        free_s[server] = max(free_s[server], came_s) + lasts_s
        done.append((free_s[server], came_s))
    for done_s, came_s in sorted(done):
        use.serve_by_any(0, count, came_s, done_s)
    work_s = sum(lasts_s for _, lasts_s in jobs)
    # Which of them it was is not known, so what overlaps may be told apart a little wrongly.
    assert use.busy_s == pytest.approx(work_s, rel=0.35)
    if count == 1:
        assert use.busy_s == pytest.approx(work_s)


def test_a_share_of_the_time_so_far() -> None:
    use = StageUse(2)
    use.start_s = 10.0
    use.serve(0, 10.0, 20.0)
    use.serve(1, 15.0, 20.0)
    use.finish(30.0)
    assert use.share_until(20.0) == pytest.approx(15 / 20, abs=0.01)
    assert use.share_until(30.0) == pytest.approx(15 / 40, abs=0.01)
    assert use.share_until(10.0) is None
