"""What is made to go wrong in a measured run, from the incidents of its configuration."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from experiments.config.build import fault_plan
from experiments.config.incidents import parse_instance, parse_rank
from experiments.config.schema import Config
from experiments.config.sections.faults import Incident
from protocol.emulation.scenario import Request
from protocol.topology import Side

if TYPE_CHECKING:
    from real.faults import RealFault


def real_plan(config: Config, replication: int, requests: Sequence[Request]) -> list[RealFault]:
    """What is made to go wrong in one replication of a measured run; the writes that fail are the simulator's."""
    return [*map(_real, config.incidents), *_failed_writes(config, replication, requests)]


def _failed_writes(config: Config, replication: int, requests: Sequence[Request]) -> Iterator[RealFault]:
    from real.faults import FailWrites
    from sim.faults import PlannedFaults

    plan = fault_plan(config, replication)
    if plan is None or not plan.failed_writes:
        return
    scenario = config.scenario()
    most: Counter[int] = Counter()  # a chunk has at least one block
    for request in requests:
        most[request.language_instance] += scenario.layout.blocks_for(request.total_tokens)
    restarts: Counter[int] = Counter()
    for incident in config.incidents:
        if incident.kind == "restart":
            side, instance = parse_instance(str(incident.instance))
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


def _real(incident: Incident) -> RealFault:
    from real import faults

    time_s, lasts_s = incident.time_s or 0.0, incident.lasts_s or 0.0
    match incident.kind:
        case "death":
            return faults.Kill(rank=parse_rank(str(incident.rank)), time_s=time_s)
        case "restart":
            side, instance = parse_instance(str(incident.instance))
            return faults.Restart(side=side, instance=instance, down_s=lasts_s, time_s=time_s)
        case "hang":
            return faults.Pause(rank=parse_rank(str(incident.rank)), lasts_s=lasts_s, time_s=time_s)
        case "slow":
            return faults.Slow(rank=parse_rank(str(incident.rank)), factor=incident.factor or 1.0)
        case _:
            return faults.ClientAbort(room=incident.room or 0, time_s=time_s)
