"""The registries where ranks find each other, over HTTP; each encode instance has one, in its rank 0.

* ``PUT /route`` with a Route as JSON enters a process. The registry keeps the latest process of every rank's name.
* ``GET /routes`` lists them all, each with the time since its last probe.
* ``GET /route?engine_rank=R&target_dp_group=G`` looks up one encode rank of this instance, and with R = G = -1 the
  instance's parallel sizes. These are the look-ups of the SGLang fork, whose language side knows only encode ranks;
  its encode ranks' own ``PUT /route`` is taken as well.
* ``GET /health`` answers as long as the process lives. A language process says in the query who it is, so the probe is
  also a sign of its own life, and is told whether the registry knows it.

With the guard of a run's token every request must be signed (``real.control.guard``); ``GET /nonce`` is the way to
begin. The fork's calls have no place for that: where the run speaks its wire they are open, and ours are not.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import aiohttp
import msgspec
from aiohttp import web

from protocol.topology import RankId, Side
from real.control.doors import Door
from real.control.guard import (
    ANSWER_HEADER,
    NONCE_HEADER,
    Guard,
    HttpClient,
    HttpServer,
    Refusal,
    Refusals,
    parse_signed,
)
from real.control.route import Route
from real.errors import EngineError
from real.threads import FAILURES

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answer = TypeVar("Answer")

POLL_S = 0.02
REQUEST_TIMEOUT_S = 5.0

LARGEST_REQUEST_BYTES = 1 << 20

MOST_QUOTED = 200
"""Characters of an answer that a message quotes."""


_silent = logging.getLogger("bufferlab.registry")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


class RegistrationRefused(EngineError):  # noqa: N818 - the registry's decision, not a mistake of ours
    """A registry does not take a process, for good; the message is its answer."""


class Entry(msgspec.Struct, frozen=True):
    """A registered process, and how long it has not probed any more; 0 for one that has not begun to."""

    route: Route
    silent_s: float


class Health(msgspec.Struct, frozen=True):
    """The answer to a probe.

    ``process``: the process that answers. ``version`` changes with every registration. ``registered``: whether the
    process that asks is the one that the registry has under its name.
    """

    process: str
    version: int
    registered: bool


class ForkRoute(msgspec.Struct, frozen=True):
    """What an encode rank of the SGLang fork registers. It has one data-parallel group here: where there are more, the
    fork's server mixes their ranks up, and each of ours is an instance with a registry of its own."""

    role: str
    tp_size: int
    dp_size: int
    rank_ip: str
    rank_port: int
    engine_rank: int

    def __post_init__(self) -> None:
        if self.role != "Encode" or self.dp_size != 1:
            raise ValueError(f"role is {self.role!r} with dp_size {self.dp_size}, it must be 'Encode' with 1")
        if not 0 <= self.engine_rank < self.tp_size:
            raise ValueError(f"engine_rank is {self.engine_rank}, it must be less than tp_size, {self.tp_size}")


class Sizes(msgspec.Struct, frozen=True):
    """How many encode ranks an instance has, as the fork's look-up tells it: none before one of them has registered."""

    embedding_tp_size: int
    embedding_dp_size: int


class Address(msgspec.Struct, frozen=True):
    """Where an encode rank takes control messages, as the fork's look-up tells it. Its port may be a number or text."""

    rank_ip: str
    rank_port: int | str


def listen(host: str, port: int = 0) -> socket.socket:
    """A listening socket for a registry, made by whoever must know the port first."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener


class Registry:
    """The HTTP server, in a daemon thread of its own so that a busy scheduler loop does not delay it.

    ``process``: the name of the process it lives in. ``refused``: processes, as (rank, generation), that are not taken.
    ``guard``: of the run's token; all are served without one. ``fork``: whether the fork's calls are, in any case.
    ``name``: what the port is called when somebody is refused.
    """

    def __init__(
        self,
        listener: socket.socket,
        process: str,
        encode_tp: int = 1,
        refused: Collection[tuple[RankId, int]] = (),
        guard: Guard | None = None,
        *,
        fork: bool = False,
        name: str = "registry",
    ) -> None:
        self._listener = listener
        self._server = None if guard is None else HttpServer(guard)
        self._fork = fork
        self._strangers = Refusals(name)
        self._doors: OrderedDict[Any, Door] = OrderedDict()  # connections that nobody has proved himself on, by handler
        self._process = process
        self._encode_tp = encode_tp
        self._refused = frozenset(refused)
        self._routes: dict[RankId, Route] = {}
        self._addresses: dict[int, tuple[str, int]] = {}  # of encode ranks, for the look-ups
        self._probed_s: dict[RankId, float] = {}
        self._sessions: dict[str, str] = {}
        self._version = 0
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)
        self._thread.start()
        self._started.wait(REQUEST_TIMEOUT_S)
        FAILURES.check()

    def close(self) -> None:
        """Stop serving."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(REQUEST_TIMEOUT_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application(middlewares=[self._admit], client_max_size=LARGEST_REQUEST_BYTES)
        app.router.add_get("/nonce", self._nonce)
        app.router.add_put("/route", self._put)
        app.router.add_get("/route", self._look_up)
        app.router.add_get("/routes", self._list)
        app.router.add_get("/health", self._health)
        # Probes keep their connections, which must not hold up the end.
        # What strangers say is answered and counted, and no news for a log.
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, logger=_silent)
        self._loop.run_until_complete(runner.setup())
        served = runner.server
        assert served is not None
        open_door = self._loop.create_server(lambda: Door(served(), self._doors, self._strangers), sock=self._listener)
        server = self._loop.run_until_complete(open_door)
        self._started.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    def strangers(self) -> list[Refusal]:
        """Who came to the port and did not hold the token."""
        return [] if self._server is None else self._strangers.list()

    @web.middleware
    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer those who hold the token; the others are told what to prove, and no more."""
        try:
            return await self._answer(request, handler)
        except web.HTTPException:
            raise  # how aiohttp says that there is no such call
        except Exception as error:
            # A mistake of ours: the registry goes on, and it is not passed over in silence.
            sys.stderr.write(f"{self._process}: the registry failed at {request.rel_url}: {error!r}\n")
            return web.Response(status=500, text=f"{type(error).__name__}: {error}")

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        if self._server is None:
            self._doors.pop(request.protocol, None)
        if self._server is None or request.path == "/nonce":
            return await handler(request)
        body = await request.read()
        path = _what(request.path, request.query.items())
        signed = parse_signed(request.headers.get("Authorization", ""))
        if signed is None or not self._server.knows(signed, request.method, path, body):
            if self._fork and signed is None and _is_forks(request, body):
                self._doors.pop(request.protocol, None)
                return await handler(request)
            self._strangers.add(request.remote)
            if request.protocol in self._doors:
                self._doors[request.protocol].counted = True
            return web.Response(status=401, text="this registry serves those who hold the run's token")
        if not self._server.is_new(signed):
            # For a server that was here before, or said again by somebody else.
            return web.Response(
                status=401, text="not for this registry now", headers={NONCE_HEADER: self._server.nonce}
            )
        self._doors.pop(request.protocol, None)
        response = await handler(request)
        if isinstance(response, web.Response):
            said = response.body if isinstance(response.body, bytes) else b""
            response.headers[ANSWER_HEADER] = self._server.sign_answer(signed, response.status, said)
        return response

    async def _nonce(self, _request: web.Request) -> web.Response:
        return web.Response(headers={NONCE_HEADER: self._server.nonce if self._server is not None else ""})

    async def _put(self, request: web.Request) -> web.Response:
        try:
            body = await request.read()
            if "role" in msgspec.json.decode(body, type=dict[str, Any]):
                return self._put_of_fork(msgspec.json.decode(body, type=ForkRoute))
            route = msgspec.json.decode(body, type=Route)
        # msgspec lets two of Python's own errors through: bad UTF-8 (a ValueError) and absurd nesting.
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            return web.Response(status=400, text=f"not a route: {error}")
        if (route.rank_id, route.generation) in self._refused:
            return web.Response(status=403, text=f"{route.rank_id} may not register here")
        present = self._routes.get(route.rank_id)
        if present is not None and present.generation > route.generation:
            return web.Response(status=409, text=f"{route.rank_id} has been taken over by a later process")
        # A process that got the engine port of one that ended could be written to in its place.
        user = self._sessions.setdefault(route.session, f"{route.rank_id} {route.process}")
        if user != f"{route.rank_id} {route.process}":
            return web.Response(status=409, text=f"session {route.session} has been that of {user.split()[0]}")
        if present != route:
            self._routes[route.rank_id] = route
            self._version += 1
            self._probed_s.pop(route.rank_id, None)
            if route.rank_id.side is Side.ENCODE:
                self._addresses[route.rank_id.rank] = (route.host, route.control_port)
        return web.Response(text="registered")

    def _put_of_fork(self, route: ForkRoute) -> web.Response:
        self._encode_tp = route.tp_size
        self._addresses[route.engine_rank] = (route.rank_ip, route.rank_port)
        return web.Response(text="registered")

    async def _look_up(self, request: web.Request) -> web.Response:
        try:
            rank = int(request.query["engine_rank"])
            group = int(request.query["target_dp_group"])
        except (KeyError, ValueError):
            return web.Response(status=400, text="give engine_rank and target_dp_group as numbers")
        if (rank, group) == (-1, -1):
            # Data parallelism within an instance is not ours: every replica is an instance of its own.
            return _json(Sizes(self._encode_tp, 1))
        if group == 0 and rank in self._addresses:
            host, port = self._addresses[rank]
            return _json({"rank_ip": host, "rank_port": port})
        return web.Response(status=404, text=f"no encode rank {rank} in group {group} is registered")

    async def _list(self, _request: web.Request) -> web.Response:
        now = time.monotonic()
        return _json([Entry(route, now - self._probed_s.get(rank_id, now)) for rank_id, route in self._routes.items()])

    async def _health(self, request: web.Request) -> web.Response:
        asking = request.query.get("process", "")
        name = request.query.get("rank", "")
        registered = False
        for rank_id, route in self._routes.items():
            if str(rank_id) == name and route.process == asking:
                self._probed_s[rank_id] = time.monotonic()
                registered = True
        return _json(Health(self._process, self._version, registered))


def _json(content: Any) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), content_type="application/json")


def _is_forks(request: web.Request, body: bytes) -> bool:
    """Whether this is a call that the fork makes as well."""
    if request.method == "GET":
        return request.path in ("/route", "/health")
    return request.method == "PUT" and request.path == "/route" and b'"role"' in body


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
            signed = self._signer.sign(method, _what(path, query.items()), body)
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


def _what(path: str, query: Iterable[tuple[str, str]]) -> str:
    """What is asked for, however its address was written."""
    return msgspec.json.encode([path, sorted(query)]).decode()


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
