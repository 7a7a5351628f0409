"""One rank as an operating-system process: the protocol core, its memory, its engine and its scheduler loop.

The main thread owns the core. It takes messages and completions as they come and holds a scheduler iteration every
``*_poll_interval_s``; an iteration that starts a forward pass is followed by the next one only when the pass is over,
while messages go on being taken, as the original backend's control thread does. The writer's thread moves bytes, the
verifier's compares them, the heartbeat's watches the other side; they only hand things over.

Run as ``python -m real.run.rank`` with a RankSpec as one line of JSON on standard input. The process ends when standard
input is closed: a rank never outlives the process that launched it.
"""

from __future__ import annotations

import os
import sys
import threading
import time

import msgspec
import torch

from bufferlab.protocol.encode import EncodeRank
from bufferlab.protocol.language import LanguageRank, LanguageRoom
from bufferlab.protocol.messages import Abort
from bufferlab.protocol.sizing import SizingError, Supervised
from bufferlab.protocol.wire.schema import value_of
from bufferlab.real.control.collective import GroupBroken
from bufferlab.real.control.spec import RankSpec
from bufferlab.real.engine.verifier import Verifier
from bufferlab.real.errors import EngineError, EngineMissing
from bufferlab.real.leaving import leave_after
from bufferlab.real.run.commands import (
    GROUP_STATUS,
    MISSING_STATUS,
    ORDER,
    Alive,
    Ask,
    Broken,
    Describe,
    GiveUp,
    Ready,
    Report,
    Start,
    Stop,
    Submit,
    parse_command,
)
from bufferlab.real.run.driver import Driver
from bufferlab.real.run.equipment import Equipment
from bufferlab.real.run.usage import Meter, Usage
from bufferlab.real.threads import FAILURES, ThreadBrokeError

STOP_GRACE_S = 10.0
"""How long a rank that has the command to stop waits for its last rooms to fall quiet."""

IDLE_WAIT_S = 0.05

SIGN_S = 1.0
"""How often a rank that closes says that it still does."""

FOR_RANKS = (Start, Submit, GiveUp, Describe, Ask, Stop)
"""The commands, which a router gives; all others are reports of ranks."""


class RankProcess:
    """Everything one rank has; ``run`` is its life."""

    def __init__(self, spec: RankSpec) -> None:
        self.spec = spec
        self.rank_id = spec.rank_id
        self._meter = Meter()
        self._usage: Usage | None = None
        self.equipment = Equipment(spec)
        self._inbox = self.equipment.inbox
        self._collective = self.equipment.collective
        self.driver = Driver(spec, self.equipment)
        self.journal = self.driver.journal
        self._compared: Supervised | None = None  # a sizing policy from outside, of which each rank has a copy
        core = self.driver.core
        if isinstance(core, LanguageRank) and isinstance(core.sizing, Supervised) and self._collective.size > 1:
            core.sizing.compared = True
            self._compared = core.sizing

    def run(self) -> None:
        """Get ready, take part in the run until told to stop, report."""
        driver = self.driver
        driver.get_ready()
        # One that does not answer by then is dead or hangs, and whoever waits for it must not hang as well.
        ready_at_s = time.monotonic() + self.spec.heartbeats.failures * self.spec.heartbeats.interval_s
        told = False
        iteration_at_s: float | None = None  # when the next iteration is held, if one is wanted
        leave_at_s: float | None = None
        while True:
            self._inbox.wait(self._wait_s(iteration_at_s))
            FAILURES.check()
            self._take_what_came()
            now = time.monotonic()
            if not told and (not driver.wire.greeting or now > ready_at_s):
                told = True
                proof, memory = self.equipment.engine.proof, str(self.equipment.placement)
                self.journal.tell(Ready(self.rank_id, driver.wire.own, proof, memory))
            for event in driver.agenda.due(now):
                driver.feed_later(event)
            if not driver.clock.is_set:
                continue
            if driver.stopping and leave_at_s is None:
                leave_at_s = now + STOP_GRACE_S
            leaving = leave_at_s is not None and self._may_leave(now > leave_at_s)
            if iteration_at_s is None and (self._collective.size > 1 or leaving or driver.iteration_due(now)):
                iteration_at_s = driver.next_iteration_s(now)
            if iteration_at_s is None or now < iteration_at_s:
                continue
            iteration_at_s = None
            iteration, all_leave = self._collective.hold_iteration(driver.core, leaving=leaving)
            driver.counts.iterations += 1
            if self._compared is not None:
                self._collective.must_answer_alike(self.rank_id, self._compared)
            if all_leave:
                break
            driver.iteration(iteration)
            if self._collective.size > 1 and driver.core.rooms:
                # As the original's ranks, which reduce their polls in every iteration while they have requests. To wait
                # for news first would let the one that has some wait for the others, which have not.
                iteration_at_s = driver.next_iteration_s(time.monotonic())
        self._close()

    def _wait_s(self, iteration_at_s: float | None) -> float:
        if self.driver.at_hand:
            return 0.0
        next_s = self.driver.agenda.next_s
        return min(IDLE_WAIT_S, (next_s if iteration_at_s is None else min(next_s, iteration_at_s)) - time.monotonic())

    def _take_what_came(self) -> None:
        driver = self.driver
        driver.notice_stall()
        if not self._meter.started and driver.clock.is_set and driver.clock.now_s() >= 0:
            driver.counts.clear()  # it may have heard of peers
            self._meter.start()
        driver.take_news()
        for frames in self._inbox.commands():
            self._take_command(frames)
        for frames in self._inbox.messages():
            if frames[0] == ORDER and not self._inbox.is_open:
                self._take_command(frames)
            else:
                for heard in driver.wire.take(frames):
                    driver.hear(heard)
        driver.take_completions()

    # --- commands ---

    def _take_command(self, frames: list[bytes]) -> None:
        try:
            command = parse_command(frames)
            if not isinstance(command, FOR_RANKS):
                raise ValueError(f"{type(command).__name__} is nothing that a router says")
        except ValueError as error:
            self.driver.wire.drop(error)
            return
        self._obey(command)

    def _obey(self, command: Start | Submit | GiveUp | Describe | Ask | Stop) -> None:
        driver = self.driver
        match command:
            case Start(zero_s):
                driver.start(zero_s)
            case Submit(request):
                driver.counts.submissions += 1
                driver.feed(value_of(request))
                for heard in driver.wire.submitted(request.room):
                    driver.hear(heard)
            case GiveUp(room, incarnation, reason):
                driver.feed(Abort(room, incarnation, reason))
            case Describe(number):
                self.journal.describe(driver.core, number)
            case Ask():
                self.journal.tell(Alive(self.rank_id, self.journal.recorded, driver.expects_s()))
            case Stop():
                driver.stopping = True
                writes = None if driver.writes is None else driver.writes.counts()
                self._usage = self._meter.stop(driver.counts, writes, self._collective.durations)

    # --- the end ---

    def _may_leave(self, late: bool) -> bool:
        """Whether nothing is left to do; ``late``: rooms that have not fallen quiet are not waited for any more."""
        return not self.driver.forward.prefilling and (late or not self._unfinished())

    def _unfinished(self) -> int:
        """Rooms that may still end within this run; a quarantine outlasts it."""
        return len(self.driver.core.rooms) - len(self._quarantined())

    def _quarantined(self) -> list[LanguageRoom]:
        core = self.driver.core
        if isinstance(core, EncodeRank):
            return []
        return [
            room
            for room in core.rooms.values()
            if room.fenced and (room.writer_gone or self.driver.wire.awaits_quiet(room.key[0]))
        ]

    def _close(self) -> None:
        self.driver.finish()
        FAILURES.check()
        verifier = self.driver.verifier
        if verifier is not None:
            self._await_comparisons(verifier)
        self.journal.send_on(least=1)
        self.journal.tell(self._report(verifier))
        self._collective.leave()
        self.driver.peers.close()
        self.equipment.close()

    def _await_comparisons(self, verifier: Verifier) -> None:
        while not verifier.close(SIGN_S):
            FAILURES.check()
            self.journal.tell(Alive(self.rank_id, self.journal.recorded))
        FAILURES.check()

    def tell_broken(self, error: BaseException) -> None:
        """Tell the router, which has all that was recorded before, why this process cannot go on."""
        known = isinstance(error, EngineError | OSError | SizingError | ThreadBrokeError)
        self.journal.send_on(least=1)
        self.journal.tell(Broken(self.rank_id, str(error) if known else f"{type(error).__name__}: {error}"))

    def _report(self, verifier: Verifier | None) -> Report:
        core, wire = self.driver.core, self.driver.wire
        quarantined = self._quarantined()
        blocks_fenced = sum(len(room.blocks) for room in quarantined)
        fenced = {room.key for room in quarantined}
        return Report(
            rank_id=self.rank_id,
            verified_rooms=verifier.verified_rooms if verifier else 0,
            verified_bytes=verifier.verified_bytes if verifier else 0,
            differences=verifier.differences if verifier else [],
            rooms_left=self._unfinished(),
            blocks_lost=core.pool.blocks - core.pool.free - blocks_fenced,
            rooms_quarantined=len(quarantined),
            blocks_fenced=blocks_fenced,
            frames_dropped=wire.frames_dropped,
            messages_stale=wire.messages_stale,
            ignored_messages=core.ignored_messages,
            left=sorted(room for room, incarnation in core.rooms if (room, incarnation) not in fenced),
            quarantined=sorted(room for room, _ in fenced),
            usage=self._usage,
            refused=self.equipment.refused(),
            traffic=self.equipment.engine.traffic(),
        )


def _end_with_parent() -> None:
    """Leave at once when standard input closes: whoever launched us is gone."""
    # Unbuffered: a thread that holds the lock of sys.stdin's buffer makes the interpreter abort when it shuts down.
    while os.read(0, 4096):
        pass
    os._exit(130)


def read_spec() -> RankSpec:
    """What this process is to be, from standard input."""
    with open(0, "rb", buffering=0, closefd=False) as commands:
        return msgspec.json.decode(commands.readline(), type=RankSpec)


def main() -> int:
    """Run the rank described on standard input; 1 with one sentence on standard error when it cannot."""
    spec = read_spec()
    FAILURES.catch_all()
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    torch.set_num_threads(1)  # ranks share the machine's cores; a second thread per rank only gets in the way
    process: RankProcess | None = None
    try:
        process = RankProcess(spec)
        process.run()
    except EngineMissing as error:
        sys.stderr.write(f"{error}\n")
        return MISSING_STATUS
    except GroupBroken as error:
        sys.stderr.write(f"{spec.rank_id}: {error}\n")
        sys.stderr.flush()
        # At once: gloo's threads wait for the other rank, and nothing of a broken group is worth a report.
        os._exit(GROUP_STATUS)
    except (Exception, SystemExit) as error:
        if process is None:
            sys.stderr.write(f"{spec.rank_id}: {error}\n")
            return 1
        process.tell_broken(error)
        if isinstance(error, SystemExit):
            return 1
        raise
    return 0


if __name__ == "__main__":
    leave_after(main)
