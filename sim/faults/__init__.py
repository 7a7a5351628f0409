"""What goes wrong in a simulated run.

``asking`` is what the cluster asks wherever something may, with the answer "nothing"; ``plan`` is what can happen, as
data; ``planned`` answers as a plan says.
"""

from sim.faults.asking import Faults, FaultyCluster, Watcher, WriteEnd
from sim.faults.plan import (
    MOST_ALARM_S,
    MOST_DELAY_S,
    MOST_HANG_S,
    MOST_LATE_S,
    MOST_REQUEST_DELAY_S,
    ClientAbort,
    Death,
    FalseAlarm,
    FaultPlan,
    Hang,
    Incident,
    Restart,
    Slow,
)
from sim.faults.planned import PlannedFaults

__all__ = [
    "MOST_ALARM_S",
    "MOST_DELAY_S",
    "MOST_HANG_S",
    "MOST_LATE_S",
    "MOST_REQUEST_DELAY_S",
    "ClientAbort",
    "Death",
    "FalseAlarm",
    "FaultPlan",
    "Faults",
    "FaultyCluster",
    "Hang",
    "Incident",
    "PlannedFaults",
    "Restart",
    "Slow",
    "Watcher",
    "WriteEnd",
]
