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
from collections.abc import Awaitable, Callable, Collection
from typing import Any

import msgspec
from aiohttp import web

from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.doors import Door
from bufferlab.real.control.guard import (
    ANSWER_HEADER,
    NONCE_HEADER,
    Guard,
    HttpServer,
    Refusal,
    Refusals,
    parse_signed,
)
from bufferlab.real.control.registry_calls import Entry, ForkRoute, Health, Sizes, named
from bufferlab.real.control.route import Route
from bufferlab.real.threads import FAILURES

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

LARGEST_REQUEST_BYTES = 1 << 20

START_TIMEOUT_S = 5.0
"""How long the thread may take to begin, and to end."""

_silent = logging.getLogger("bufferlab.registry")
_silent.addHandler(logging.NullHandler())
_silent.propagate = False


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
        self._started.wait(START_TIMEOUT_S)
        FAILURES.check()

    def close(self) -> None:
        """Stop serving."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(START_TIMEOUT_S)

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
        path = named(request.path, request.query.items())
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
