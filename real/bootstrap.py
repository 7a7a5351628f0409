"""The registry where ranks find each other, over HTTP; it lives in encode rank 0 of instance 0.

``PUT /route`` with a Route as JSON enters or replaces one rank, ``GET /routes`` lists all, ``GET /health`` answers as
long as the process lives.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Collection

import aiohttp
import msgspec
from aiohttp import web

from protocol.topology import RankId
from real.orders import Route

POLL_S = 0.02
REQUEST_TIMEOUT_S = 5.0


def listen(host: str, port: int = 0) -> socket.socket:
    """A listening socket for the registry, made by whoever must know the port first."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, port))
    listener.listen(128)
    return listener


class Registry:
    """The HTTP server, in a daemon thread of its own so that a busy scheduler loop does not delay it."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._routes: dict[RankId, Route] = {}
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="registry", daemon=True)
        self._thread.start()
        self._started.wait(REQUEST_TIMEOUT_S)

    def close(self) -> None:
        """Stop serving."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(REQUEST_TIMEOUT_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        app = web.Application()
        app.router.add_put("/route", self._put)
        app.router.add_get("/routes", self._list)
        app.router.add_get("/health", self._health)
        runner = web.AppRunner(app, access_log=None)
        self._loop.run_until_complete(runner.setup())
        self._loop.run_until_complete(web.SockSite(runner, self._listener).start())
        self._started.set()
        self._loop.run_forever()
        self._loop.run_until_complete(runner.cleanup())
        self._loop.close()

    async def _put(self, request: web.Request) -> web.Response:
        try:
            route = msgspec.json.decode(await request.read(), type=Route)
        except msgspec.DecodeError as error:
            return web.Response(status=400, text=f"not a route: {error}")
        self._routes[route.rank_id] = route
        return web.Response(text="registered")

    async def _list(self, _request: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(list(self._routes.values())), content_type="application/json")

    async def _health(self, _request: web.Request) -> web.Response:
        return web.Response(text="ok")


def register_and_find(
    bootstrap: str,
    own: Route,
    wanted: Collection[RankId],
    timeout_s: float,
    give_up: threading.Event | None = None,
) -> dict[RankId, Route]:
    """Enter ``own`` and wait until all of ``wanted`` are listed.

    Raises TimeoutError naming who is missing after ``timeout_s``, or earlier when ``give_up`` is set.
    """
    return asyncio.run(_register_and_find(bootstrap, own, set(wanted), timeout_s, give_up or threading.Event()))


async def _register_and_find(
    bootstrap: str, own: Route, wanted: set[RankId], timeout_s: float, give_up: threading.Event
) -> dict[RankId, Route]:
    deadline = time.monotonic() + timeout_s
    body = msgspec.json.encode(own)
    registered = False
    routes: dict[RankId, Route] = {}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)) as session:
        while time.monotonic() < deadline and not give_up.is_set():
            try:
                if not registered:
                    async with session.put(f"http://{bootstrap}/route", data=body) as answer:
                        answer.raise_for_status()
                    registered = True
                async with session.get(f"http://{bootstrap}/routes") as answer:
                    listed = msgspec.json.decode(await answer.read(), type=list[Route])
                routes = {route.rank_id: route for route in listed}
                if wanted <= routes.keys():
                    return routes
            except (aiohttp.ClientConnectionError, TimeoutError):
                pass  # the registry's process may still be starting, on a busy machine slowly; the deadline decides
            await asyncio.sleep(POLL_S)
    missing = ", ".join(str(rank_id) for rank_id in sorted(wanted - routes.keys()))
    raise TimeoutError(f"after {timeout_s:g} s the registry at {bootstrap} still lacks {missing}")
