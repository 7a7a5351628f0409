"""What is made to go wrong in a measured run, from the incidents of its configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bufferlab.experiments.config.build import fault_plan
from bufferlab.experiments.config.schema import Config
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.faults import Restart
from bufferlab.protocol.topology import Side

if TYPE_CHECKING:
    from bufferlab.real.faults import RealFault


def real_plan(config: Config, replication: int, requests: Sequence[Request]) -> list[RealFault]:
    """What is made to go wrong in one replication of a measured run; the writes that fail are the simulator's."""
    from bufferlab.real.faults import carried_out

    incidents = (carried_out(given.planned()) for given in config.incidents)
    return [*incidents, *_failed_writes(config, replication, requests)]


def _failed_writes(config: Config, replication: int, requests: Sequence[Request]) -> Iterator[RealFault]:
    from bufferlab.real.faults import FailWrites
    from bufferlab.sim.faults import PlannedFaults

    plan = fault_plan(config, replication)
    if plan is None or not plan.failed_writes:
        return
    scenario = config.scenario()
    most: Counter[int] = Counter()  # a chunk has at least one block
    for request in requests:
        most[request.language_instance] += scenario.layout.blocks_for(request.total_tokens)
    restarts: Counter[int] = Counter()
    for incident in plan.incidents:
        if isinstance(incident, Restart):
            side, instance = incident.instance
            restarts[instance] += side is Side.ENCODE
    for writer in scenario.encode_ids():
        for destination in scenario.language_ids():
            until_s = config.random_faults.until_s
            for generation in range(restarts[writer.instance] + 1):
                numbers = PlannedFaults(plan).failed_writes(writer, destination, most[destination.instance], generation)
                yield FailWrites(
                    writer=writer,
                    destination=destination,
                    numbers=tuple(numbers),
                    until_s=until_s,
                    generation=generation,
                )
