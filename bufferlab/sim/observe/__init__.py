"""Runs that are watched from beginning to end.

The invariants of single records are ``protocol.observe.monitor``; what a whole run owes is here, since only a simulated
run has an outcome to hold against its records. ``book`` keeps the accounts that this takes, ``ends`` says what is wrong
at the end, ``watched`` runs a scenario and keeps everything.
"""

from bufferlab.sim.observe.book import STATIONS, Book, StationFlow
from bufferlab.sim.observe.ends import violations_at_the_end, violations_of, violations_of_counts
from bufferlab.sim.observe.watched import InvariantError, ObservedRun, observe

__all__ = [
    "STATIONS",
    "Book",
    "InvariantError",
    "ObservedRun",
    "StationFlow",
    "observe",
    "violations_at_the_end",
    "violations_of",
    "violations_of_counts",
]
