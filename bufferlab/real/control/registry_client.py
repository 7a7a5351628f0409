"""What processes ask of the registries (``real.control.bootstrap``), and how those of a run find each other there."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import aiohttp
import msgspec

from bufferlab.protocol.topology import RankId
from bufferlab.real.control.guard import ANSWER_HEADER, NONCE_HEADER, Guard, HttpClient
from bufferlab.real.control.registry_calls import Address, Entry, ForkRoute, Health, Sizes, named
from bufferlab.real.control.route import Route
from bufferlab.real.errors import EngineError

Answer = TypeVar("Answer")

POLL_S = 0.02
REQUEST_TIMEOUT_S = 5.0

MOST_QUOTED = 200
"""Characters of an answer that a message quotes."""


class RegistrationRefused(EngineError):  # noqa: N818 - the registry's decision, not a mistake of ours
    """A registry does not take a process, for good; the message is its answer."""


class RegistryClient:
    """The other end: what a process asks of one registry at ``address`` (host:port).

    ``guard``: of the run's token, if the registry has one. Every call raises aiohttp.ClientError or TimeoutError when
    the registry does not answer as it should.
    """

    def __init__(self, session: aiohttp.ClientSession, address: str, guard: Guard | None = None) -> None:
        self.address = address
        self._session = session
        self._signer = None if guard is None else HttpClient(guard)

    async def _call(
        self, method: str, path: str, query: Mapping[str, str] | None = None, body: bytes = b""
    ) -> tuple[int, bytes]:
        """Ask, and return the answer's status and body."""
        url, query = f"http://{self.address}{path}", dict(query or {})
        if self._signer is None:
            async with self._session.request(method, url, params=query, data=body or None) as answer:
                return answer.status, await answer.read()
        for _ in range(2):
            if not self._signer.nonce:
                async with self._session.get(f"http://{self.address}/nonce") as answer:
                    self._signer.nonce = answer.headers.get(NONCE_HEADER, "")
            signed = self._signer.sign(method, named(path, query.items()), body)
            headers = {"Authorization": signed.header()}
            async with self._session.request(method, url, params=query, data=body or None, headers=headers) as answer:
                status, said = answer.status, await answer.read()
                if self._signer.answers(signed, status, said, answer.headers.get(ANSWER_HEADER, "")):
                    return status, said
                if status != 401:
                    raise aiohttp.ClientPayloadError(f"it answers with status {status} and without the run's token")
                # Another process of ours may have taken the port over.
                self._signer.nonce = answer.headers.get(NONCE_HEADER, "")
        raise aiohttp.ClientPayloadError(f"it does not take the run's token: {_shortened(said)}")

    async def register(self, own: Route) -> None:
        """Enter ``own``. Raises RegistrationRefused when the registry does not want it."""
        status, said = await self._call("PUT", "/route", body=msgspec.json.encode(own))
        if status in (400, 403, 409):
            reason = said.decode(errors="replace")
            raise RegistrationRefused(f"the registry at {self.address} refuses {own.rank_id}: {reason}")
        _require_ok(status, said)

    async def entries(self) -> list[Entry]:
        """All registered processes."""
        return _decode(await self._call("GET", "/routes"), list[Entry])

    async def health(self, own: Route) -> Health:
        """Probe the registry's process and say that ``own`` lives."""
        return _decode(await self._call("GET", "/health", {"rank": str(own.rank_id), "process": own.process}), Health)

    # --- the calls of the SGLang fork, which its own server answers as well ---

    async def register_rank(self, rank: ForkRoute) -> None:
        """Enter an encode rank."""
        _require_ok(*await self._call("PUT", "/route", body=msgspec.json.encode(rank)))

    async def sizes(self) -> Sizes:
        """The instance's parallel sizes."""
        return await self._look_up(-1, -1, Sizes)

    async def address_of(self, encode_rank: int) -> tuple[str, int]:
        """Host and control port of an encode rank of the only data-parallel group."""
        found = await self._look_up(encode_rank, 0, Address)
        try:
            return found.rank_ip, int(found.rank_port)
        except ValueError:
            raise aiohttp.ClientPayloadError(f"it answers the port {found.rank_port!r}") from None

    async def alive(self) -> Health | None:
        """Return if the instance answers: what it says of itself if it is one of ours, None if it is the fork's."""
        status, said = await self._call("GET", "/health")
        _require_ok(status, said)
        try:
            return msgspec.json.decode(said, type=Health)
        except (msgspec.MsgspecError, ValueError):
            return None

    async def _look_up(self, rank: int, group: int, answer_type: type[Answer]) -> Answer:
        query = {"engine_rank": str(rank), "target_dp_group": str(group)}
        return _decode(await self._call("GET", "/route", query), answer_type)


def _require_ok(status: int, said: bytes) -> None:
    """Raise ClientPayloadError with what the answer says if it is no success."""
    if status >= 400:
        raise aiohttp.ClientPayloadError(f"it answers with status {status}, {_shortened(said)!r}")


def _decode(answer: tuple[int, bytes], answer_type: type[Answer]) -> Answer:
    _require_ok(*answer)
    said = answer[1]
    try:
        return msgspec.json.decode(said, type=answer_type)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise aiohttp.ClientPayloadError(f"it answers {_shortened(said)!r}: {error}") from error


def _shortened(said: bytes) -> str:
    text = said.decode(errors="replace")
    return text if len(text) <= MOST_QUOTED else f"{text[:MOST_QUOTED]}…"


def why(error: aiohttp.ClientError | TimeoutError) -> str:
    """What a failed call means, in a few words."""
    return str(error) or "it does not answer in time"


def http_session(timeout_s: float) -> aiohttp.ClientSession:
    """A session whose requests take at most ``timeout_s``; within a running event loop."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s))


def register_and_find(
    registries: Mapping[str, Collection[RankId]],
    own: Route,
    group: Sequence[RankId],
    timeout_s: float,
    guard: Guard | None = None,
) -> dict[RankId, Route]:
    """Enter ``own`` in all ``registries`` and wait for those whom each must list, and for the own ``group``.

    ``registries``: by address, the ranks of the other side to wait for there. ``group``: ranks of the own instance,
    of the same generation as ``own``; any registry may list them. ``guard``: of the run's token, if they have one.
    Raises RegistrationRefused, and TimeoutError naming who is missing after ``timeout_s``.
    """
    return asyncio.run(_register_and_find(registries, own, set(group), timeout_s, guard))


async def _register_and_find(
    registries: Mapping[str, Collection[RankId]],
    own: Route,
    group: set[RankId],
    timeout_s: float,
    guard: Guard | None,
) -> dict[RankId, Route]:
    deadline = time.monotonic() + timeout_s
    found: dict[RankId, Route] = {}
    unregistered = set(registries)
    missing = {address: set(wanted) for address, wanted in registries.items()}
    missing_members = set(group)
    failures: dict[str, str] = {}  # by registry, why the last call failed
    async with http_session(REQUEST_TIMEOUT_S) as session:
        clients = {address: RegistryClient(session, address, guard) for address in registries}
        while time.monotonic() < deadline:
            for address, client in clients.items():
                # The registry's process may still be starting, on a busy machine slowly; the deadline decides.
                try:
                    if address in unregistered:
                        await client.register(own)
                        unregistered.remove(address)
                    if not missing[address] and not missing_members:
                        continue
                    entries = await client.entries()
                except (aiohttp.ClientError, TimeoutError) as error:
                    failures[address] = why(error)
                    continue
                failures.pop(address, None)
                for entry in entries:
                    route = entry.route
                    if route.rank_id in missing[address]:
                        missing[address].discard(route.rank_id)
                        found[route.rank_id] = route
                    elif route.rank_id in missing_members and route.generation == own.generation:
                        missing_members.discard(route.rank_id)
                        found[route.rank_id] = route
            if not unregistered and not missing_members and not any(missing.values()):
                return found
            await asyncio.sleep(POLL_S)
    absent = sorted(missing_members.union(*missing.values()))
    if not absent:
        silent = min(unregistered)
        raise TimeoutError(f"after {timeout_s:g} s the registry at {silent} has not answered ({failures.get(silent)})")
    named = ", ".join(str(rank_id) for rank_id in absent)
    reasons = "".join(f"; {address}: {reason}" for address, reason in failures.items())
    raise TimeoutError(f"after {timeout_s:g} s the registries at {', '.join(registries)} still lack {named}{reasons}")
