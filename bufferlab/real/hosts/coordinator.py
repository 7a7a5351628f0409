"""The ranks' hosts of a run on several hosts, as the router sees them: ranks that come by themselves and take a place.

The coordinator listens at an address that everybody is told. Each rank keeps a connection to it
(``real.hosts.joining``, ``real.hosts.agent``); a thread per connection takes what comes over it. The run itself needs
none of this: it is ordered over the ranks' inboxes, as on one host.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import msgspec

from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.wire.limits import SGLANG
from bufferlab.real.control.addresses import is_loopback, listen
from bufferlab.real.control.clocks import Clock
from bufferlab.real.control.guard import Guard, Refusal, Refusals
from bufferlab.real.control.spec import RankSpec
from bufferlab.real.engine.registry import engines, only_with_devices
from bufferlab.real.errors import EngineError, EngineStartError
from bufferlab.real.hosts.joining import (
    BEAT_S,
    TO_COORDINATOR,
    BindRegistry,
    Bound,
    ConnectionLost,
    Count,
    Counted,
    Join,
    Leave,
    Line,
    NotOfThisRun,
    Refuse,
    ToCoordinator,
    Welcome,
    first_difference,
    sources_digest,
)
from bufferlab.real.hosts.place import Place, RemoteProcess
from bufferlab.real.threads import ThreadBrokeError, ThreadFailures

PROOF_S = 10.0
"""How long somebody may take to prove that he holds the token."""

MOST_UNPROVEN = 64
"""Connections of such that are open at a time; beyond that the oldest is closed."""
LEAVE_TIMEOUT_S = 10.0


class Coordinator:
    """The hosts of a run's ranks. ``gather`` waits for them; leaving the context lets them go.

    ``address`` and ``port``: where it listens, a free port for 0. ``config``: the run's configuration, to which a
    rank's own is held. ``token``: the run's, without which nobody is listened to, or what gives it for the address and
    port; "" to listen to everybody. ``expose``: whether the ports of the fork's wire, at which anybody is listened
    to, may be reached from elsewhere.
    Raises EngineStartError when it cannot listen there.
    """

    def __init__(
        self,
        scenario: Scenario,
        address: str,
        port: int,
        config: Mapping[str, Any] | None = None,
        token: str | Callable[[str], str] = "",
        *,
        expose: bool = False,
    ) -> None:
        self.router_host = address
        self._strangers = Refusals("port of the coordinator")
        self._unproven: OrderedDict[Line, float] = OrderedDict()  # and since when
        self.sides = {Side.ENCODE: scenario.encode_ids(), Side.LANGUAGE: scenario.language_ids()}
        self._config = config
        self._sources = sources_digest()
        self._places: dict[RankId, Place] = {}
        self._gathered = False
        self._closed = threading.Event()
        self._changed = threading.Condition()
        self._news: deque[str] = deque()
        self._lines: set[Line] = set()
        self._threads: list[threading.Thread] = []
        self._failures = ThreadFailures()
        try:
            self._listener = listen(address, port)
        except OSError as error:
            raise EngineStartError(f"cannot listen at {address}:{port}: {error.strerror}") from None
        self._listener.settimeout(BEAT_S / 4)
        self.address = f"{address}:{self._listener.getsockname()[1]}"
        try:
            self.token = token if isinstance(token, str) else token(self.address)
        except BaseException:
            self._listener.close()
            raise
        self._loopback_only = scenario.wire == SGLANG and not expose

    def __enter__(self) -> Coordinator:
        for target in (self._accept, self._beat):
            self._in_thread(target)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        failure = ""
        if error is not None:
            failure = "the coordinator was interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
        with self._changed:
            self._gathered = True  # nobody is taken any more
            places = list(self._places.values())
        for place in places:
            place.send(Leave(failure))
        deadline_s = time.monotonic() + LEAVE_TIMEOUT_S
        for place in places:  # a rank closes its connection when its process has ended
            while not place.lost and time.monotonic() < deadline_s:
                time.sleep(0.01)
        self._closed.set()
        with self._changed:
            lines = list(self._lines)
        for line in lines:
            line.close()
        for thread in self._threads:
            thread.join(LEAVE_TIMEOUT_S)
        self._listener.close()

    # --- ranks that come ---

    def gather(self, wait_s: float, say: Callable[[str], None] = lambda _: None) -> None:
        """Wait until every rank has come; ``say`` is told of each.

        Raises EngineStartError naming those that have not after ``wait_s``.
        """
        deadline_s = time.monotonic() + wait_s
        while True:
            self.check()
            with self._changed:
                self._changed.wait_for(lambda: self._news or not self._missing(), min(0.2, wait_s))
                while self._news:
                    say(self._news.popleft())
                if not (missing := self._missing()):
                    self._gathered = True
                    return
            if time.monotonic() > deadline_s:
                raise EngineStartError(f"after {wait_s:g} s these ranks have not come: {', '.join(missing)}")

    def _missing(self) -> list[str]:
        return [
            f"{side.value} {number}"
            for side, ids in self.sides.items()
            for number, rank_id in enumerate(ids)
            if rank_id not in self._places
        ]

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._listener.accept()
            except TimeoutError:
                continue
            line = Line(connection)
            with self._changed:
                self._lines.add(line)
                self._unproven[line] = time.monotonic()
                if len(self._unproven) > MOST_UNPROVEN:
                    next(iter(self._unproven)).close()
            self._in_thread(lambda line=line: self._serve(line))  # type: ignore[misc]

    def _serve(self, line: Line) -> None:
        try:
            join = self._first_word(line)
            place = self._take(join, line) if isinstance(join, Join) else None
            if place is not None:
                place.listen()
                self._drop(place)
        except ConnectionLost:
            pass  # a stranger at the port, or a rank that did not wait to be taken
        finally:
            line.close()
            with self._changed:
                self._lines.discard(line)

    def _first_word(self, line: Line) -> ToCoordinator:
        """What somebody says who has come; of one without the token, who has said something, it is told."""
        peer = line.peer
        try:
            if self.token:
                line.agree(lambda: Guard(self.token), is_server=True)
            return line.receive(TO_COORDINATOR)
        except ConnectionLost as lost:
            if self.token and line.heard_bytes and not line.proven:
                self._strangers.add(peer)
            if isinstance(lost, NotOfThisRun):
                line.send(Refuse("it does not hold the run's token"))  # it cannot read that, and sees that it cannot
            raise
        finally:
            with self._changed:
                self._unproven.pop(line, None)

    def refused(self) -> list[Refusal]:
        """Who came to the port and did not hold the run's token."""
        return self._strangers.list()

    def _take(self, join: Join, line: Line) -> Place | None:
        with self._changed:
            reason = self._why_not(join)
            if reason:
                line.send(Refuse(reason))
                self._say(f"{join.side.value} {join.number} from {join.host} is refused: {reason}")
                return None
            rank_id = self.sides[join.side][join.number]
            line.send(Welcome(rank_id))
            place = self._places[rank_id] = Place(rank_id, join, line)
            self._say(f"{join.side.value} {join.number} ({rank_id}) has come from {join.host}")
            return place

    def _why_not(self, join: Join) -> str:
        ids = self.sides[join.side]
        if not 0 <= join.number < len(ids):
            return f"the run has {join.side.value} ranks 0 to {len(ids) - 1} (instance × tp + rank)"
        if self._loopback_only and not is_loopback(join.host):
            return f"on the sglang wire anybody can speak to its ports, and {join.host} is reached from elsewhere"
        if join.sources != self._sources:
            return "it runs other sources than the coordinator; install the same version on all hosts"
        transport = (self._config or {}).get("real", {}).get("transport")
        if join.device and transport in engines() and transport not in engines()[transport].device_transports:
            return f"--device is {join.device!r}, which has no effect in a run over {transport}: {only_with_devices()}"
        if join.config is not None and self._config is not None:
            difference = first_difference(self._config, join.config)
            if difference is not None:
                name, ours, theirs = difference
                return f"its configuration has {name} = {theirs!r}, the run's has {ours!r}"
        place = self._places.get(ids[join.number])
        if place is not None:
            return f"it has come already, from {place.host}"
        if self._gathered:
            return "the run has begun"
        return ""

    def _drop(self, place: Place) -> None:
        """Free the place of a rank that is gone, as long as another may come for it."""
        with self._changed:
            if not self._gathered:
                del self._places[place.rank_id]
                self._say(f"{place.rank_id} {place.lost}")

    def _say(self, news: str) -> None:
        self._news.append(news)
        self._changed.notify_all()

    def _beat(self) -> None:
        while not self._closed.wait(BEAT_S):
            with self._changed:
                places = list(self._places.values())
                slow = [line for line, since_s in self._unproven.items() if time.monotonic() - since_s > PROOF_S]
            for line in slow:
                line.close()
            for place in places:
                if not place.lost:
                    place.ask_clock()

    def _in_thread(self, target: Callable[[], None]) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        thread = threading.Thread(target=self._guarded, args=(target,), name="coordinator", daemon=True)
        thread.start()
        self._threads.append(thread)

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except Exception as error:
            self._failures.add("coordinator", error)
            with self._changed:
                self._changed.notify_all()

    # --- what the router needs (``real.hosts.places.Hosts``) ---

    def check(self) -> None:
        """Raise EngineError if a thread of the coordinator has ended with an exception."""
        try:
            self._failures.check()
        except ThreadBrokeError as broke:
            raise EngineError(f"the coordinator cannot go on: {broke}") from broke

    def address_of(self, rank_id: RankId) -> str:
        """The address at which the others reach this rank."""
        return self._places[rank_id].host

    def bind_registry(self, leader: RankId, port: int = 0) -> str:
        """Have the registry's socket opened on the leader's host, at a port of its choice; its host:port."""
        place = self._places[leader]
        answer = place.ask(BindRegistry())
        if port or not isinstance(answer, Bound):
            raise EngineStartError(f"{leader} {place.lost or 'does not open a registry'}")
        return f"{place.host}:{answer.port}"

    def start(self, spec: RankSpec) -> RemoteProcess:
        """Have a rank started."""
        return self._places[spec.rank_id].start(msgspec.structs.replace(spec, bootstrap_fd=None, token=""))

    def measure_clock(self, rank_id: RankId, before: Clock | None = None) -> Clock:
        """The rank's clock against this process's."""
        return self._places[rank_id].measure_clock(before)

    def sent_counters(self) -> dict[str, dict[str, int]]:
        """By host, the bytes that it has sent so far; without those that do not answer."""
        counters = {}
        for place in {place.host: place for place in self._places.values() if not place.lost}.values():
            answer = place.ask(Count())
            if isinstance(answer, Counted):
                counters[place.host] = answer.counters
        return counters

    def facts(self) -> dict[str, dict[str, Any]]:
        """By host, what its first rank said of it."""
        return {place.host: place.facts for _, place in sorted(self._places.items(), reverse=True)}
