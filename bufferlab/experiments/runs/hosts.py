"""A measured run on several hosts: what the command line does beyond a run on one.

The process without a role is the coordinator: it waits for its ranks, runs, and writes the run. Every other process is
one rank. All are the same command (docs/several-hosts.md).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.backend import REAL_MEMORY_SHARE, real_errors
from bufferlab.experiments.runs.diagnosis import examine_real
from bufferlab.experiments.runs.environment import describe
from bufferlab.experiments.runs.tokens import held, offered
from bufferlab.protocol.topology import Side

if TYPE_CHECKING:
    from bufferlab.real.control.clocks import Clock
    from bufferlab.real.hosts.coordinator import Coordinator
    from bufferlab.real.hosts.places import Hosts

WAIT_S = 60.0
"""How long a coordinator waits for its ranks, and a rank for its coordinator, if nothing else is said."""

ROLES = tuple(side.value for side in Side)


class Meeting(msgspec.Struct, frozen=True):
    """Where the ranks of a run meet: the coordinator's HOST:PORT, and how long one waits there for the others.

    ``token``: the file that has the run's, if one is named. ``expose``: whether the ports of the fork's wire, which
    ask nobody for a token, may be reached from other hosts.
    """

    bootstrap: str
    wait_s: float = WAIT_S
    token: Path | None = None
    expose: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.wait_s < float("inf"):
            raise UserError(f"--wait is {self.wait_s:g}, it must be a number of seconds that is not negative")


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Which rank a process is. ``host``: its address, None for the one from which it reaches the coordinator."""

    role: str
    number: int
    host: str | None = None
    device: str = ""

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise UserError(f"--role is {self.role!r}, it must be {' or '.join(ROLES)}")
        if self.number < 0:
            raise UserError(f"--rank is {self.number}, it must be at least 0")


@contextmanager
def gathered(config: Config, meeting: Meeting | None, say: Callable[[str], None]) -> Iterator[Coordinator | None]:
    """The hosts of a run's ranks once all of them have come; None without a meeting: they are on this host.

    Raises UserError when this process cannot listen there, when ranks stay away, or when the pools of a host's ranks
    take more memory than it has.
    """
    if meeting is None:
        yield None
        return
    from bufferlab.protocol.wire.limits import SGLANG
    from bufferlab.real.control.addresses import is_loopback
    from bufferlab.real.hosts.coordinator import Coordinator

    with _addresses():
        address, port = _meeting_place(meeting, lowest_port=0)
    scenario = config.scenario()
    if scenario.wire == SGLANG and not meeting.expose and not is_loopback(address):
        raise UserError(
            f"protocol.wire is 'sglang', whose frames have no place for a token, and --bootstrap is {address}: its "
            f"ports would obey whoever reaches them; give --expose in a network that you trust"
        )
    with (
        offered(meeting.token, say) as token,
        Coordinator(scenario, address, port, comparable(config), token, expose=meeting.expose) as hosts,
    ):
        counts = {side: len(ids) for side, ids in hosts.sides.items()}
        wanted = " and ".join(f"{side.value} ranks 0 to {count - 1}" for side, count in counts.items())
        say(f"waiting at {hosts.address} for {wanted}")
        hosts.gather(meeting.wait_s, say)
        check_memory(config, hosts)
        say("all ranks have come, the run begins")
        yield hosts


def take_part(config: Config | None, meeting: Meeting, part: Part, say: Callable[[str], None]) -> None:
    """Be one rank of a run until it is over. ``config``: if it is given it must be the run's.

    Raises UserError when this rank cannot take part, RunFailedError when the run is broken off.
    """
    missing = examine_real(config.real.transport if config is not None else None)
    if missing:
        raise UserError(missing)
    with real_errors(say):
        from bufferlab.real.control.addresses import is_loopback, require_own, resolve, towards
        from bufferlab.real.hosts import agent

        with _addresses():
            address, port = _meeting_place(meeting, own=False)
            host = towards(address) if part.host is None else resolve(part.host, "--host")
            require_own(host, "--host")
            if is_loopback(host) and not is_loopback(address):
                raise UserError(f"--host names {host}, it must be an address that other hosts reach")
        say(f"{part.role} {part.number} at {host} joins the run of {address}:{port}")
        agent.take_part(
            (address, port),
            Side(part.role),
            part.number,
            host=host,
            device=part.device,
            config=None if config is None else comparable(config),
            facts=_facts(),
            wait_s=meeting.wait_s,
            token=lambda: held(meeting.token, f"{address}:{port}"),
        )


def comparable(config: Config) -> dict[str, Any]:
    """What two processes of a run must agree on: every setting but the run's name, which a file's name gives it."""
    tree = config.tree()
    tree["run"] = {name: value for name, value in tree["run"].items() if name != "name"}
    return tree


def check_memory(config: Config, hosts: Coordinator) -> None:
    """Raise UserError for a host with less memory than the pools of its ranks may take."""
    pools: defaultdict[str, int] = defaultdict(int)
    for side, section in ((Side.ENCODE, config.encode), (Side.LANGUAGE, config.language)):
        for rank_id in hosts.sides[side]:
            pools[hosts.address_of(rank_id)] += config.blocks(section) * config.layout.bytes_per_block
    for host, facts in hosts.facts().items():
        memory_bytes = facts.get("host", {}).get("memory_bytes", 0) * REAL_MEMORY_SHARE
        if 0 < memory_bytes < pools[host]:
            raise UserError(
                f"the pools of the ranks on {host} take {pools[host] / 2**30:.1f} GiB, a real run has at most "
                f"{memory_bytes / 2**30:.1f} GiB for them there; lower encode.pool_blocks or language.pool_blocks"
            )


def describe_ranks(hosts: Hosts, clocks: Mapping[Any, Clock], replication: int) -> list[dict[str, Any]]:
    """For environment.json: where each rank of a replication was, and its clock against the coordinator's.

    ``clock_offset_s``: how much more its clock showed when the run began; ``clock_drift``: seconds that it gained in a
    second until the run's end, None if it could not be asked again. The offset is known to ``clock_uncertainty_s``, and
    so are the times of its events.
    """
    return [
        {
            "replication": replication,
            "rank": str(rank_id),
            "host": hosts.address_of(rank_id),
            "clock_offset_s": clock.before.offset_s,
            "clock_uncertainty_s": clock.uncertainty_s,
            "clock_drift": None if clock.after is None else clock.drift,
        }
        for rank_id, clock in sorted(clocks.items())
    ]


def _facts() -> dict[str, Any]:
    found = describe({})
    told = ("python", "packages", "host", "removed_variables", "passed_variables")
    return {name: found[name] for name in told}


def _meeting_place(meeting: Meeting, *, own: bool = True, lowest_port: int = 1) -> tuple[str, int]:
    from bufferlab.real.control.addresses import parse_address, require_own

    address, port = parse_address(meeting.bootstrap, "--bootstrap", lowest_port=lowest_port)
    if own:
        require_own(address, "--bootstrap")
    return address, port


@contextmanager
def _addresses() -> Iterator[None]:
    """An address that is not what it must be is bad input; the backend says so with a ValueError."""
    try:
        yield
    except ValueError as error:
        raise UserError(str(error)) from None
