"""What a rank's process has and its protocol core knows nothing of: ports, engine, memory, group, registry."""

from __future__ import annotations

import socket

import zmq

from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.wire.limits import SGLANG
from bufferlab.real.control.bootstrap import Registry
from bufferlab.real.control.channel import Inbox, Outbox
from bufferlab.real.control.collective import Collective
from bufferlab.real.control.guard import Refusal, guard_of
from bufferlab.real.control.route import Route
from bufferlab.real.control.spec import RankSpec
from bufferlab.real.control.wire import START_TIMEOUT_S
from bufferlab.real.engine.memory import Pool
from bufferlab.real.engine.placement import Placement, find_devices, place
from bufferlab.real.engine.registry import start_engine
from bufferlab.real.faults import RefuseRegistration
from bufferlab.real.threads import FAILURES

SPARE_CONNECTIONS = 64
"""How many more are let into the control port than the run has processes, started again or not."""


class Equipment:
    """Made when a rank's process starts. ``own``: how the process is reached. ``router``: the way to the router."""

    def __init__(self, spec: RankSpec) -> None:
        self._spec = spec
        scenario, rank_id = spec.scenario, spec.rank_id
        is_encode = rank_id.side is Side.ENCODE
        ranks = [*scenario.encode_ids(), *scenario.language_ids()]
        self.guard = guard_of(spec.token)
        # On the fork's wire anybody may speak; what he says is no order, which come in by a door of their own.
        is_open = self.guard is not None and scenario.wire == SGLANG
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.inbox = Inbox(
            self.context,
            spec.host,
            self.guard,
            name=f"control port of {rank_id}",
            most_connections=2 * len(ranks) + SPARE_CONNECTIONS,
            is_open=is_open,
        )
        FAILURES.wake = self.inbox.wake
        self.router = Outbox(self.context, spec.router.host, spec.router.control_port, self.guard)
        self.engine = start_engine(spec.transport, host=spec.host, device=spec.device, guard=self.guard)
        self.placement: Placement = place(spec.memory, ranks.index(rank_id), find_devices(spec.transport))
        self.pool = self._make_pool(scenario)
        size = scenario.encode_tp if is_encode else scenario.language_tp
        self.collective = Collective(rank_id.rank, size, spec.host, START_TIMEOUT_S, self.guard)
        self.own = Route(
            rank_id=rank_id,
            host=spec.host,
            control_port=self.inbox.port,
            commands_port=self.inbox.commands_port if is_open else 0,
            generation=spec.generation,
            session=self.engine.session,
            bases=self.pool.bases,
            collective_port=self.collective.port,
        )
        self._registry = (
            None if spec.bootstrap_fd is None else self._serve(spec.bootstrap_fd, fork=is_open and is_encode)
        )

    def _make_pool(self, scenario: Scenario) -> Pool:
        rank_id = self._spec.rank_id
        blocks = scenario.encode_blocks if rank_id.side is Side.ENCODE else scenario.language_blocks
        pool = Pool(scenario.layout, blocks, self.placement.device, pinned=self.placement.pinned)
        self.engine.register(pool)
        if (rank_id, self._spec.generation) in self._refused("memory"):
            self.engine.register(pool)  # memory is registered once; the engine refuses it a second time
        return pool

    def _serve(self, listener: int, *, fork: bool) -> Registry:
        return Registry(
            socket.socket(fileno=listener),
            self.own.process,
            self._spec.scenario.encode_tp,
            self._refused("route"),
            self.guard,
            fork=fork,
            name=f"registry of {self._spec.rank_id}",
        )

    def _refused(self, what: str) -> list[tuple[RankId, int]]:
        refusals = (fault for fault in self._spec.faults if isinstance(fault, RefuseRegistration))
        return [(fault.rank, fault.generation) for fault in refusals if fault.what == what]

    def refused(self) -> list[Refusal]:
        """Who came to the ports and did not hold the run's token."""
        port = f"engine port of {self._spec.rank_id}"
        at_engine = [Refusal(port, address, count) for address, count in sorted(self.engine.strangers().items())]
        at_registry = self._registry.strangers() if self._registry is not None else []
        return [*self.inbox.refused(), *at_registry, *at_engine]

    def close(self) -> None:
        """Close the ports, when what was said has left; the ways to others must have been closed before."""
        self.router.close()
        self.inbox.close()
        self.context.term()
        if self._registry is not None:
            self._registry.close()
