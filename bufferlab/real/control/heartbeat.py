"""Who of the other side lives, and as which process: a thread of every rank that asks and reports what changed.

A language rank probes ``/health`` of every encode instance. So many failures in a row, and all ranks of the instance
are reported lost. An encode rank reads in its own instance's registry when each language process last gave a sign of
life, which every probe is; after a failed write it also looks at once whether the peer's process is still there.
Either side reports a process that registers under a known name, and one that was taken for lost and is heard again.

The thread reports, it decides nothing: the rank's own thread knows which process it has dealt with so far.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence

import aiohttp
import msgspec

from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.guard import Guard
from bufferlab.real.control.registry_client import RegistryClient, http_session
from bufferlab.real.control.route import Route
from bufferlab.real.control.spec import Heartbeats
from bufferlab.real.threads import FAILURES

LOOK_TIMEOUT_S = 0.5
"""How long a look at a peer's control port may take: on a living host the kernel answers in microseconds, for a
stopped process too."""

LOOKS = 5
LOOKS_APART_S = 0.1
"""A killed process closes its ports only after its memory is gone, which takes a tenth of a second for some gigabytes;
its connections may break before."""


class Lost(msgspec.Struct, frozen=True):
    """The process that had been found under this rank's name gives no sign of life any more."""

    rank_id: RankId
    process: str


class Found(msgspec.Struct, frozen=True):
    """A process stands for its rank: a new one, or one that had been reported lost."""

    route: Route


News = Lost | Found


class Heartbeat:
    """The thread. ``on_news`` is called in it and must only hand over; an exception in place of news ended the thread.

    ``registries``: by address, the ranks of the other side that are to be watched there. ``known``: the processes
    found so far; a rank that is not in it counts as lost until its process registers. ``guard``: of the run's token, if
    the registries have one.
    """

    def __init__(
        self,
        own: Route,
        registries: Mapping[str, Sequence[RankId]],
        known: Mapping[RankId, Route],
        heartbeats: Heartbeats,
        on_news: Callable[[News | Exception], None],
        guard: Guard | None = None,
    ) -> None:
        self._own = own
        self._guard = guard
        self._registries = registries
        self._known = dict(known)
        self._lost: set[RankId] = set()
        self._ended: set[str] = set()  # processes that cannot come back
        self._heartbeats = heartbeats
        self._on_news = on_news
        self._loop = asyncio.new_event_loop()
        self._hurried: list[asyncio.Event] = []
        self._watching: asyncio.Task[None] | None = None
        self._looks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        with contextlib.suppress(RuntimeError):  # the loop has ended already
            self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join(2 * LOOK_TIMEOUT_S)

    def hurry(self) -> None:
        """Ask the registries now, not at the next beat: somebody unknown has spoken."""
        self._loop.call_soon_threadsafe(self._hurry)

    def look_at(self, rank_id: RankId) -> None:
        """Find out now whether the rank's process has ended, which the kernel of its host knows."""
        self._loop.call_soon_threadsafe(self._begin_to_look_at, rank_id)

    # --- in the thread ---

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._watching = self._loop.create_task(self._watch_all())
        try:
            self._loop.run_until_complete(self._watching)
        except asyncio.CancelledError:
            pass  # that is how ``close`` ends it
        except Exception as error:
            self._on_news(error)
        finally:
            self._loop.close()

    def _cancel(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    def _hurry(self) -> None:
        for event in self._hurried:
            event.set()

    async def _watch_all(self) -> None:
        # An answer that takes longer than an interval is a failure, as it is in the original.
        async with http_session(self._heartbeats.interval_s) as session:
            await asyncio.gather(
                *(
                    self._watch(RegistryClient(session, address, self._guard), list(ranks))
                    for address, ranks in self._registries.items()
                )
            )

    async def _watch(self, registry: RegistryClient, ranks: list[RankId]) -> None:
        hurried = asyncio.Event()
        self._hurried.append(hurried)
        interval_s = self._heartbeats.interval_s
        probes = self._own.rank_id.side is Side.LANGUAGE
        failures = 0
        looked_s = time.monotonic()
        seen = ("", -1)  # the registry's process and version when its entries were last read
        if probes:
            hurried.set()  # a process is watched from its first probe on
        while True:
            # The encode side looks twice as often: what it reads is up to an interval old already.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(hurried.wait(), interval_s if probes else interval_s / 2)
            hurried.clear()
            stood_still = time.monotonic() - looked_s > 2 * interval_s
            looked_s = time.monotonic()
            try:
                if probes:
                    seen = await self._probe(registry, ranks, seen)
                elif not stood_still:  # else it is we who were silent, and the registry with us
                    await self._read_ages(registry, ranks)
            except (aiohttp.ClientError, TimeoutError):
                failures += 1
                if probes and failures >= self._heartbeats.failures:
                    seen = ("", -1)
                    for rank_id in ranks:
                        self._lose(rank_id)
            else:
                failures = 0

    async def _probe(self, registry: RegistryClient, ranks: list[RankId], seen: tuple[str, int]) -> tuple[str, int]:
        health = await registry.health(self._own)
        if not health.registered:
            await registry.register(self._own)
        now = (health.process, health.version)
        if now != seen or self._lost.intersection(ranks):
            for entry in await registry.entries():
                if entry.route.rank_id in ranks:
                    self._find(entry.route)
        return now

    async def _read_ages(self, registry: RegistryClient, ranks: list[RankId]) -> None:
        # Half an interval more than the probes need that failed: a living peer's probe is not always on the dot.
        patience_s = (self._heartbeats.failures + 0.5) * self._heartbeats.interval_s
        for entry in await registry.entries():
            if entry.route.rank_id not in ranks:
                continue
            if entry.silent_s <= patience_s:
                self._find(entry.route)
            elif entry.route == self._known.get(entry.route.rank_id):
                self._lose(entry.route.rank_id)

    def _begin_to_look_at(self, rank_id: RankId) -> None:
        task = self._loop.create_task(self._look_at(rank_id))
        self._looks.add(task)  # the loop itself would forget it
        task.add_done_callback(self._looked)

    def _looked(self, task: asyncio.Task[None]) -> None:
        self._looks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            FAILURES.add("heartbeat", error)

    async def _look_at(self, rank_id: RankId) -> None:
        route = self._known.get(rank_id)
        if route is None:
            return
        for _ in range(LOOKS):
            try:
                _, writer = await asyncio.wait_for(
                    asyncio.open_connection(route.host, route.control_port), LOOK_TIMEOUT_S
                )
            except ConnectionRefusedError:
                # Nobody listens where the process did: it has ended. Anything else proves nothing.
                self._ended.add(route.process)
                if self._known.get(rank_id) == route:
                    self._lose(rank_id)
                return
            except (OSError, TimeoutError):
                pass
            else:
                writer.close()
            await asyncio.sleep(LOOKS_APART_S)

    def _lose(self, rank_id: RankId) -> None:
        route = self._known.get(rank_id)
        if route is not None and rank_id not in self._lost:
            self._lost.add(rank_id)
            self._on_news(Lost(rank_id, route.process))

    def _find(self, route: Route) -> None:
        present = self._known.get(route.rank_id)
        if present is not None and present.generation > route.generation:
            return
        if route.process in self._ended or (route == present and route.rank_id not in self._lost):
            return
        self._known[route.rank_id] = route
        self._lost.discard(route.rank_id)
        self._on_news(Found(route))
