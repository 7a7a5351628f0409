"""What goes wrong in a simulated run.

``asking`` is what the cluster asks wherever something may, with the answer "nothing"; ``plan`` is what happens in a
run, made of what ``protocol.faults`` knows; ``planned`` answers as a plan says.
"""

from bufferlab.sim.faults.asking import Faults, FaultyCluster, Watcher, WriteEnd
from bufferlab.sim.faults.plan import FaultPlan
from bufferlab.sim.faults.planned import PlannedFaults

__all__ = ["FaultPlan", "Faults", "FaultyCluster", "PlannedFaults", "Watcher", "WriteEnd"]
