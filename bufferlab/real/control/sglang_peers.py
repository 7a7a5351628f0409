"""How ranks find and watch each other over the SGLang fork's HTTP calls, which know encode ranks and nobody else.

``PUT /route`` enters an encode rank, ``GET /route`` tells an instance's sizes and where a rank is, ``GET /health``
whether the instance lives. What the ranks of one group need of each other stays among them: an encode instance's
registry has their entries beside the fork's, the language ranks of an instance have a registry of their own.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping

import aiohttp

from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.guard import guard_of
from bufferlab.real.control.heartbeat import Heartbeat
from bufferlab.real.control.registry_calls import ForkRoute
from bufferlab.real.control.registry_client import (
    POLL_S,
    REQUEST_TIMEOUT_S,
    RegistryClient,
    http_session,
    register_and_find,
    why,
)
from bufferlab.real.control.route import Route
from bufferlab.real.control.spec import RankSpec
from bufferlab.real.control.wire import START_TIMEOUT_S
from bufferlab.real.errors import EngineError


def assemble_encode(spec: RankSpec, own: Route) -> dict[RankId, Route]:
    """Register as the fork does in the own instance's registry, and meet the own group there. Blocks."""
    scenario, rank_id = spec.scenario, own.rank_id
    registry = spec.bootstraps[rank_id.instance]
    entry = ForkRoute("Encode", scenario.encode_tp, 1, own.host, own.control_port, rank_id.rank)
    asyncio.run(_register(registry, entry))
    return _meet_group(registry, own, scenario.encode_ids(), spec.token)


def assemble_language(spec: RankSpec, own: Route, writers: Mapping[str, RankId]) -> dict[RankId, Route]:
    """Look up the encode rank that writes to this one in every registry, and meet the own group. Blocks.

    ``writers``: by registry. Raises EngineError when an encode instance has other sizes than the configuration, and
    TimeoutError when one has not answered after a minute.
    """
    found = asyncio.run(_look_up_all(writers, spec.scenario.encode_tp))
    return found | _meet_group(spec.meeting, own, spec.scenario.language_ids(), spec.token)


def _meet_group(registry: str, own: Route, side: Collection[RankId], token: str) -> dict[RankId, Route]:
    group = [rank_id for rank_id in side if rank_id.instance == own.rank_id.instance]
    if len(group) == 1:
        return {own.rank_id: own}
    return register_and_find({registry: []}, own, group, START_TIMEOUT_S, guard_of(token))


async def _register(registry: str, entry: ForkRoute) -> None:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    async with http_session(REQUEST_TIMEOUT_S) as session:
        while True:
            try:
                return await RegistryClient(session, registry).register_rank(entry)
            except (aiohttp.ClientError, TimeoutError) as error:
                if time.monotonic() > deadline_s:
                    raise TimeoutError(
                        f"after {START_TIMEOUT_S:g} s the registry at {registry} takes no rank: {why(error)}"
                    ) from error
            await asyncio.sleep(POLL_S)


async def _look_up_all(writers: Mapping[str, RankId], encode_tp: int) -> dict[RankId, Route]:
    deadline_s = time.monotonic() + START_TIMEOUT_S
    found: dict[RankId, Route] = {}
    failures: dict[RankId, str] = {}
    async with http_session(REQUEST_TIMEOUT_S) as session:
        while True:
            for address, writer in writers.items():
                # The registry's process may still be starting, or its ranks be on their way to it.
                if writer not in found:
                    try:
                        found[writer] = await _look_up(RegistryClient(session, address), writer, encode_tp)
                    except (aiohttp.ClientError, TimeoutError) as error:
                        failures[writer] = why(error)
            if len(found) == len(writers):
                return found
            if time.monotonic() > deadline_s:
                missing = "; ".join(
                    f"{one} at {address} ({failures[one]})" for address, one in writers.items() if one not in found
                )
                raise TimeoutError(f"after {START_TIMEOUT_S:g} s a look-up still lacks {missing}")
            await asyncio.sleep(POLL_S)


async def _look_up(registry: RegistryClient, writer: RankId, encode_tp: int) -> Route:
    sizes = await registry.sizes()
    if (sizes.embedding_tp_size, sizes.embedding_dp_size) != (encode_tp, 1):
        raise EngineError(
            f"the encode instance at {registry.address} has tp {sizes.embedding_tp_size} and dp "
            f"{sizes.embedding_dp_size}, the configuration has encode.tp {encode_tp}, and every data-parallel group is "
            f"an instance of its own"
        )
    return await _address_of(registry, writer)


async def _address_of(registry: RegistryClient, rank_id: RankId) -> Route:
    health = await registry.alive()
    host, port = await registry.address_of(rank_id.rank)
    # Nobody writes to an encode rank, so its engine's name is not told. Its address names the process as well.
    return Route(
        rank_id=rank_id,
        host=host,
        control_port=port,
        session=f"{host}:{port}",
        failed_is_quiet=health is not None,
    )


class SglangHeartbeat(Heartbeat):
    """A language rank probes ``/health`` and looks its encode ranks up again, so that it also notices one that moved.

    An encode rank has nobody to probe; it only looks at the port of a peer when a write to it has failed.
    """

    def know(self, route: Route) -> None:
        """From now on ``route`` is what stands for its rank, and is looked at."""

        def note() -> None:
            self._known[route.rank_id] = route
            self._lost.discard(route.rank_id)

        self._loop.call_soon_threadsafe(note)

    async def _watch_all(self) -> None:
        if self._own.rank_id.side is Side.ENCODE:
            await asyncio.Event().wait()  # until the thread is closed
        await super()._watch_all()

    async def _probe(
        self, registry: RegistryClient, ranks: Collection[RankId], seen: tuple[str, int]
    ) -> tuple[str, int]:
        for rank_id in ranks:
            self._find(await _address_of(registry, rank_id))
        return seen
