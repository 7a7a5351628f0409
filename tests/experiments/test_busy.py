"""Whose the processors' time was while something was measured."""

from __future__ import annotations

import subprocess
import sys

import pytest

from bufferlab.experiments.runs.busy import Busy, Glances, read_busy, spent, together, told_of_runs, usable

WORK_S = 0.4

# Works through a process of its own, which has ended, and lives on: so does the fork server of ranks.
PARENT = f"""
import os, sys, time
if os.fork() == 0:
    while time.process_time() < {WORK_S}:
        pass
    os._exit(0)
os.wait()
print("ended", flush=True)
sys.stdin.read()
"""


def test_the_work_of_what_our_processes_start_is_our_own() -> None:
    before = spent(usable())
    with subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        while_it_lives = spent(usable())
        parent.communicate()
    afterwards = spent(usable())
    assert while_it_lives.own_s - before.own_s > 0.9 * WORK_S
    # Nothing is counted twice, nor forgotten, when it ends; the kernel's clocks tick.
    assert 0 <= afterwards.own_s - while_it_lives.own_s < WORK_S / 2


def test_what_others_took_is_what_lies_between_the_first_and_the_last_look(monkeypatch: pytest.MonkeyPatch) -> None:
    glances = Glances()
    assert glances.found is None
    glances.look()
    assert glances.found is None, "one look tells nothing"
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as ours:
        while spent(usable()).own_s - glances._seen[0].own_s < WORK_S:
            pass
        glances.look()
        ours.kill()
    found = glances.found
    if sys.platform == "linux":
        assert found is not None
        assert found.lasts_s > 0
        assert found.processors == len(usable())
    monkeypatch.setattr(sys, "platform", "darwin")
    elsewhere = Glances()
    elsewhere.look()
    elsewhere.look()
    assert elsewhere.found is None


def test_times_are_put_together_by_how_long_they_last() -> None:
    found = together([Busy(2, 3.0, 0.1, 0.0), Busy(2, 1.0, 0.5, 0.2)])
    assert found == pytest.approx(Busy(2, 4.0, 0.2, 0.05))
    assert together([]) is None
    assert read_busy(Busy(2, 4.0, 0.2, 0.05).content()) == Busy(2, 4.0, 0.2, 0.05)
    assert read_busy(None) is None
    assert read_busy({"others": 0.5}) is None


def test_a_run_on_a_busy_host_is_told_to_be_one_if_it_lasts_long_enough_to_tell() -> None:
    assert told_of_runs(Busy(2, 4.0, 0.3, 0.25)).startswith(
        "this host is busy: other programs took 30% and the host of this virtual machine took 25% of the time of"
    )
    assert told_of_runs(Busy(2, 4.0, 0.05, 0.04)) == ""
    assert told_of_runs(Busy(2, 0.2, 0.9, 0.0)) == ""
    assert told_of_runs(None) == ""
