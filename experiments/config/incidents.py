"""What goes wrong in a run, as a configuration says it, and as the simulator and the real backend take it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from experiments.errors import UserError
from protocol.topology import RankId, Side

if TYPE_CHECKING:
    from experiments.config.schema import Config, Incident
    from protocol.emulation.scenario import Request
    from real.faults import RealFault
    from sim.faults import FaultPlan

NEEDS: dict[str, tuple[str, ...]] = {
    "death": ("time_s", "rank"),
    "restart": ("time_s", "instance", "lasts_s"),
    "hang": ("time_s", "rank", "lasts_s"),
    "slow": ("rank", "factor"),
    "abort": ("time_s", "room"),
    "false-alarm": ("time_s", "observer", "rank", "lasts_s"),
}
"""The settings of every kind of incident, all of which must be given."""

NOT_REAL = {
    "false-alarm": "a measured run cannot do: its ranks take nobody for dead but by their own heartbeats, which a hang "
    "that is long enough makes fail",
}
"""Why a measured run does not do some kinds of incidents."""

SENT = ("lost_messages", "doubled_messages", "late_messages")
NOT_REAL_RATES = {
    **dict.fromkeys(SENT, "it must be 0 for a measured run, whose control channel loses, doubles and delays nothing"),
    "late_writes": "it must be 0 for a measured run, whose transport alone decides when bytes land",
    "late_requests": "it must be 0 for a measured run, whose requests travel as fast as they do",
}
"""Why a measured run has no such rates."""

_PROCESS = ("death", "restart", "hang")
_RANK = re.compile(r"(encode|language)(\d+)\.(\d+)")
_INSTANCE = re.compile(r"(encode|language)(\d+)")


def parse_rank(text: str) -> RankId:
    """``language0.1`` is rank 1 of language instance 0. Raises ValueError for anything else."""
    match = _RANK.fullmatch(text)
    if match is None:
        raise ValueError("must be a rank such as language0.1")
    return RankId(Side(match[1]), int(match[2]), int(match[3]))


def parse_instance(text: str) -> tuple[Side, int]:
    """``encode1`` is encode instance 1. Raises ValueError for anything else."""
    match = _INSTANCE.fullmatch(text)
    if match is None:
        raise ValueError("must be an instance such as encode0")
    return Side(match[1]), int(match[2])


def check_incidents(config: Config) -> None:
    """Raise ValueError for an incident of a rank or an instance that is not there."""
    for number, incident in enumerate(config.incidents):
        for name in ("rank", "observer"):
            text = getattr(incident, name)
            if text is None:
                continue
            rank = parse_rank(text)
            section = config.encode if rank.side is Side.ENCODE else config.language
            if rank.instance >= section.instances or rank.rank >= section.tp:
                raise ValueError(
                    f"incidents.{number}.{name} is {text!r}, it must be one of the {section.instances} instances with "
                    f"{section.tp} ranks of the {rank.side.value} side, counted from 0"
                )
        if (
            incident.kind == "false-alarm"
            and parse_rank(str(incident.observer)).side is parse_rank(str(incident.rank)).side
        ):
            raise ValueError(f"incidents.{number}.observer is {incident.observer!r}, it must be of the other side")
        if incident.instance is not None:
            side, instance = parse_instance(incident.instance)
            section = config.encode if side is Side.ENCODE else config.language
            if instance >= section.instances:
                raise ValueError(
                    f"incidents.{number}.instance is {incident.instance!r}, it must be one of the {section.instances} "
                    f"instances of the {side.value} side, counted from 0"
                )
    if config.incidents or config.random_faults.happens:
        fault_plan(config, 0)  # for what the plan itself refuses


def fault_plan(config: Config, replication: int) -> FaultPlan | None:
    """The plan of one replication; None when nothing goes wrong. Raises ValueError for what cannot be planned."""
    from sim.faults import FaultPlan

    rates = config.random_faults
    if not config.incidents and not rates.happens:
        return None
    plan: dict[str, Any] = rates.model_dump(exclude_none=True)
    return FaultPlan(
        seed=config.run.seed,
        replication=replication,
        incidents=tuple(_planned(config, incident) for incident in config.incidents),
        **plan,
    )


def check_real_incidents(config: Config, *, one_host: bool) -> None:
    """Raise UserError for what cannot be made to go wrong in a measured run, or not where its ranks are elsewhere."""
    for number, incident in enumerate(config.incidents):
        if incident.kind in NOT_REAL:
            raise UserError(f"incidents.{number}.kind is {incident.kind!r}, which {NOT_REAL[incident.kind]}")
        if incident.kind in _PROCESS and not one_host:
            raise UserError(
                f"incidents.{number}.kind is {incident.kind!r}, which needs all ranks on this host: a process on "
                f"another one cannot be ended or stopped from here"
            )
    for name, reason in NOT_REAL_RATES.items():
        rate = getattr(config.random_faults, name)
        if rate > 0:
            raise UserError(f"random_faults.{name} is {rate}, {reason}")


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


def _planned(config: Config, incident: Incident) -> Any:
    from sim import faults

    time_s, lasts_s = incident.time_s or 0.0, incident.lasts_s or 0.0
    match incident.kind:
        case "death":
            return faults.Death(time_s, parse_rank(str(incident.rank)))
        case "restart":
            return faults.Restart(time_s, *parse_instance(str(incident.instance)), lasts_s)
        case "hang":
            return faults.Hang(time_s, parse_rank(str(incident.rank)), lasts_s)
        case "slow":
            return faults.Slow(parse_rank(str(incident.rank)), incident.factor or 1.0)
        case "false-alarm":
            return faults.FalseAlarm(
                time_s, parse_rank(str(incident.observer)), parse_rank(str(incident.rank)), lasts_s
            )
        case _:
            return faults.ClientAbort(time_s, incident.room or 0, _ranks_of(config, incident.room or 1))


def _ranks_of(config: Config, room: int) -> tuple[RankId, ...]:
    """Every rank that a room is on, by the rule that spreads rooms over the instances."""
    encode, language = (room - 1) % config.encode.instances, (room - 1) % config.language.instances
    return (
        *(RankId(Side.ENCODE, encode, rank) for rank in range(config.encode.tp)),
        *(RankId(Side.LANGUAGE, language, rank) for rank in range(config.language.tp)),
    )
