"""A rank that has come to a coordinator, and its process, as its connection tells of them."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import deque

from bufferlab.protocol.topology import RankId
from bufferlab.real.control.clocks import Clock, RoundTrip, best_offset
from bufferlab.real.control.spec import RankSpec
from bufferlab.real.errors import EngineStartError
from bufferlab.real.hosts.joining import (
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
    Line,
    Signal,
    Tell,
    ToRank,
)
from bufferlab.real.hosts.places import LOST_STATUS

ROUND_TRIPS = 16
"""Questions of one measurement of a clock. The quickest counts, so a few must meet a moment when nobody is busy."""

ANSWER_TIMEOUT_S = 10.0


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
