"""Whose the processors' time was while something was measured."""

from __future__ import annotations

import subprocess
import sys

from bufferlab.experiments.calibration.host.busy import spent, usable

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
