"""Chaos runs: a random small scenario with a random plan of faults, watched for everything that must still hold.

``run_seed`` is a pure function of its seed. A seed that reports violations is a bug in the protocol or in its driver
and is replayed with ``bufferlab check --random 1 --seed SEED``.
"""

from bufferlab.sim.chaos.drawing import ChaosCase, draw_case
from bufferlab.sim.chaos.running import ChaosOutcome, describe, run_case, run_seed

__all__ = ["ChaosCase", "ChaosOutcome", "describe", "draw_case", "run_case", "run_seed"]
