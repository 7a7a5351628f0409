"""The ranks' hosts of a run on several hosts, as the router sees them: ranks that come by themselves and take a place.

The coordinator listens at an address that everybody is told. Each rank keeps a connection to it
(``real.hosts.joining``, ``real.hosts.seat``); a thread per connection takes what comes over it. The run itself needs
none of this: it is ordered over the ranks' inboxes, as on one host.
"""

from __future__ import annotations

import subprocess
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import msgspec

from protocol.emulation.scenario import Scenario
from protocol.topology import RankId, Side
from protocol.wire.limits import SGLANG
from real.control.addresses import is_loopback, listen
from real.control.clocks import Clock, RoundTrip, best_offset
from real.control.guard import Guard, Refusal, Refusals
from real.control.spec import RankSpec
from real.engine.registry import engines
from real.errors import EngineError, EngineStartError
from real.hosts.joining import (
    BEAT_S,
    TO_COORDINATOR,
    Ask,
    BindRegistry,
    Bound,
    ConnectionLost,
    Count,
    Counted,
    Ended,
    Gone,
    Join,
    Launch,
    Leave,
    Line,
    NotOfThisRun,
    Refuse,
    Signal,
    Tell,
    ToCoordinator,
    ToRank,
    Welcome,
    first_difference,
    sources_digest,
)
from real.hosts.places import LOST_STATUS
from real.threads import ThreadBrokeError, ThreadFailures

ROUND_TRIPS = 16
"""Questions of one measurement of a clock. The quickest counts, so a few must meet a moment when nobody is busy."""

ANSWER_TIMEOUT_S = 10.0

PROOF_S = 10.0
"""How long somebody may take to prove that he holds the token."""

MOST_UNPROVEN = 64
"""Connections of such that are open at a time; beyond that the oldest is closed."""
LEAVE_TIMEOUT_S = 10.0


class RemoteProcess:
    """A rank's process on another host, as far as its place's connection tells."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._status: int | None = None
        self._how = ""
        self._last_words = ""
        self._over = threading.Event()

    def end(self, status: int, how: str, last_words: str) -> None:
        """It has ended; what is said first holds."""
        if not self._over.is_set():
            self._status, self._how, self._last_words = status, how, last_words
            self._over.set()

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._status if self._over.is_set() else None

    def wait(self, timeout_s: float) -> int:
        """Its exit status. Raises subprocess.TimeoutExpired when it still runs after ``timeout_s``."""
        if not self._over.wait(timeout_s):
            raise subprocess.TimeoutExpired(str(self._place.rank_id), timeout_s)
        assert self._status is not None
        return self._status

    def send_signal(self, number: int) -> None:
        """Have a signal sent to it."""
        if not self._over.is_set():
            self._place.send(Signal(number))

    def is_stopped(self) -> bool:
        """Its host does not say."""
        return False

    def how_it_ended(self) -> str:
        """A few words."""
        return self._how

    def last_words(self) -> str:
        """The last line it wrote to standard error; else how it ended."""
        return self._last_words


class Place:
    """A rank that has come, and the connection that it holds."""

    def __init__(self, rank_id: RankId, join: Join, line: Line) -> None:
        self.rank_id = rank_id
        self.host = join.host
        self.facts = join.facts
        self.lost = ""
        self._line = line
        self._process: RemoteProcess | None = None
        self._news = threading.Condition()
        self._trips: list[RoundTrip] = []
        self._answers: deque[Bound | Counted] = deque()

    def listen(self) -> None:
        """Take what the rank says until it is gone; for the connection's thread."""
        try:
            while True:
                message = self._line.receive(TO_COORDINATOR)
                now_s = time.monotonic()
                match message:
                    case Tell(sent_s, taken_s):
                        with self._news:
                            self._trips.append(RoundTrip(sent_s, taken_s, now_s))
                            self._news.notify_all()
                    case Bound() | Counted():
                        with self._news:
                            self._answers.append(message)
                            self._news.notify_all()
                    case Ended(status, last_words):
                        if self._process is not None:
                            self._process.end(status, f"ended with status {status} (on {self.host})", last_words)
                    case Gone(reason):
                        self.lose(reason)
                        return
                    case Join():
                        raise ConnectionLost("it joined twice")
        except ConnectionLost as lost:
            self.lose(f"is lost: {lost}")

    def lose(self, how: str) -> None:
        """The rank is gone, and its process with it."""
        with self._news:
            self.lost = self.lost or f"{how} (on {self.host})"
            self._news.notify_all()
        if self._process is not None:
            self._process.end(LOST_STATUS, self.lost, f"{self.rank_id} {self.lost}")

    def send(self, message: ToRank) -> None:
        """Say something; to one that is gone it is not said."""
        try:
            self._line.send(message)
        except ConnectionLost as lost:
            self.lose(f"is lost: {lost}")

    def start(self, spec: RankSpec) -> RemoteProcess:
        """Have the rank's process started; if the rank is gone it has ended at once."""
        self._process = RemoteProcess(self)
        self.send(Launch(spec))
        if self.lost:  # perhaps before there was a process that could have been told
            self._process.end(LOST_STATUS, self.lost, f"{self.rank_id} {self.lost}")
        return self._process

    def ask_clock(self) -> None:
        """Ask for the clock, whose answer also says that the rank is there."""
        self.send(Ask(time.monotonic()))

    def measure_clock(self, before: Clock | None) -> Clock:
        """The clock of the rank's host. Of one that is gone it is what ``before`` says. Raises EngineStartError."""
        with self._news:
            self._trips = []
        for number in range(1, ROUND_TRIPS + 1):
            self.ask_clock()
            if not self._await_trips(number):
                break  # one that does not answer once is not asked again
        with self._news:
            trips = list(self._trips)
        if self.lost or not trips:
            if before is None:
                raise EngineStartError(f"{self.rank_id} {self.lost or 'does not answer'}")
            return before
        offset = best_offset(trips)
        return Clock(offset) if before is None else Clock(before.before, offset)

    def _await_trips(self, number: int) -> bool:
        with self._news:
            self._news.wait_for(lambda: self.lost or len(self._trips) >= number, ANSWER_TIMEOUT_S)
            return len(self._trips) >= number

    def ask(self, question: BindRegistry | Count) -> Bound | Counted | None:
        """The answer to a question; None of a rank that is gone."""
        with self._news:
            self._answers.clear()  # of one that was too slow
        self.send(question)
        with self._news:
            self._news.wait_for(lambda: self.lost or self._answers, ANSWER_TIMEOUT_S)
            return self._answers.popleft() if self._answers else None


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
        self._counters: dict[str, dict[str, int]] = {}
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
            return f"--device is {join.device!r}, which has no effect in a run over {transport}: only rdma has devices"
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
        """By host, the bytes that it has sent so far; of a host that is gone, what it said last."""
        for place in {place.host: place for place in self._places.values() if not place.lost}.values():
            answer = place.ask(Count())
            if isinstance(answer, Counted):
                self._counters[place.host] = answer.counters
        return {place.host: self._counters.get(place.host, {}) for place in self._places.values()}

    def facts(self) -> dict[str, dict[str, Any]]:
        """By host, what its first rank said of it."""
        return {place.host: place.facts for _, place in sorted(self._places.items(), reverse=True)}
