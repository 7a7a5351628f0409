"""The cluster on a host whose threads share few processors.

``Cluster`` gives every thread a processor of its own, and lets a rank take messages whatever its loop does. Here a rank
has one thread for both, as a measured one has: what it takes, its turns, its copies and the content of its passes
follow each other. All threads of all ranks, and the router's, share the ``processors`` of one host; what they do there
is in the link profile (``host``).

Latencies are those of the profile. Of each, what the host's costs name is work, and only the rest passes by itself: a
request that meets nobody takes as long as in ``Cluster``, but for what it has to wait for itself.

The ranks of a group of more than one come together every turn, whether there is anything to do or not. Such an *idle
turn* changes nothing but takes its part of the processors, so it is held as long as anything else goes on anywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from protocol.agreement import hold_turn
from protocol.emulation.passes import Delivered
from protocol.emulation.scenario import Request, Scenario
from protocol.lifecycle import PROCESS_ENDED
from protocol.messages import (
    Action,
    Conclude,
    CopyOut,
    Deliver,
    Encoded,
    EncodeRequest,
    LanguageRequest,
    Note,
    Send,
    StartEncode,
    Turn,
)
from protocol.recording import Recorder
from protocol.sizing import must_answer_alike
from protocol.topology import RankId, Side
from sim.clock import Clock
from sim.cluster.cluster import Cluster
from sim.cluster.group import Group, Rank, Worker
from sim.faults import Faults
from sim.host.processors import SharedProcessors, Thread
from sim.network.link import LinkProfile
from sim.network.worker import HostedWorker
from sim.streams import stream

if TYPE_CHECKING:
    from numpy.random import Generator


class _Meeting:
    """A turn of a group from its call until every rank has acted on it.

    ``left``: ranks that the group waits for in the present step. ``rest``: of every language rank, the actions that are
    still to come. ``cold``: the ranks whose threads slept soundly until the turn and have copied nothing since.
    """

    __slots__ = ("began_s", "cold", "group", "idle", "left", "rest")

    def __init__(self, group: Group, *, idle: bool) -> None:
        self.group = group
        self.idle = idle
        self.left = len(group.ranks)
        self.began_s = 0.0
        self.rest: dict[Rank, Iterator[Action]] = {}
        self.cold: set[Rank] = set()


class _Spread:
    """Factors that are drawn, one each time."""

    __slots__ = ("_draws", "_factors")

    def __init__(self, factors: tuple[float, ...], draws: Callable[[], Generator]) -> None:
        self._factors = factors
        self._draws = draws() if len(factors) > 1 else None

    def draw(self) -> float:
        if self._draws is None:
            return self._factors[0]
        return self._factors[int(self._draws.random() * len(self._factors))]


class HostedCluster(Cluster):
    """A cluster whose link has a host. ``draws(name)``: the stream of what takes another time every time.

    Raises ValueError for a link without a host, and as ``Cluster``.
    """

    def __init__(
        self,
        scenario: Scenario,
        link: LinkProfile,
        clock: Clock,
        recorder: Recorder | None = None,
        on_concluded: Callable[[int], None] | None = None,
        faults: Faults | None = None,
        draws: Callable[[str], Generator] | None = None,
    ) -> None:
        if link.host is None:
            raise ValueError(f"link profile {link.name} has no host")
        self.host = host = link.host
        self.processors = SharedProcessors(clock, host.processors)
        self._draws = draws or _unseeded
        self._router = Thread(self.processors)
        self._threads: dict[Rank, Thread] = {}
        self._messages: dict[Rank, _Spread] = {}
        self._copies: dict[Rank, _Spread] = {}
        self._wakeups: dict[Group, _Spread] = {}
        self._lengths: dict[Group, Generator] = {}
        self._meetings: dict[Group, _Meeting] = {}
        self._processes: Counter[RankId] = Counter()  # that have been started under each name
        self._idle_works = 0
        # Of a latency that ends with an input, what lies in the taking thread before the input counts as taken.
        self._before_s = host.before_s(link.control_latency_s)
        self._after_s = host.input_s - self._before_s
        super().__init__(scenario, link, clock, recorder, on_concluded, faults)
        self._control_s = max(0.0, link.control_latency_s - host.message_s - self._before_s)
        self._submissions = self._spread(host.submit_spread, "submissions")
        self._handed_out_s = 0.0

    def _spread(self, factors: tuple[float, ...], name: str) -> _Spread:
        return _Spread(factors, lambda: self._draws(name))

    def _make_rank(self, rank_id: RankId, slowness: float) -> Rank:
        self._processes[rank_id] += 1
        rank = super()._make_rank(rank_id, slowness)
        self._threads[rank] = Thread(self.processors)
        messages, copies = (self._of_process(f"{what} {rank_id}", rank_id) for what in ("messages to", "copies of"))
        self._messages[rank] = self._spread(self.host.control_spread, messages)
        self._copies[rank] = self._spread(self.host.copy_spread, copies)
        return rank

    def _make_worker(self, rank_id: RankId, number: int, slowness: float) -> Worker:
        name = f"writes of {rank_id}" if not number else f"writes of {rank_id} by worker {number}"
        draw = self._spread(self.host.write_spread, self._of_process(name, rank_id)).draw
        return HostedWorker(
            self.clock, self.processors, self.network, self.link, self._layout, rank_id, self._contacts, slowness,
            taken_s=self._before_s, draw=draw,
        )  # fmt: skip

    def _of_process(self, name: str, rank_id: RankId) -> str:
        """The name of a stream that is of the rank's present process alone: the next one does not live through it."""
        generation = self._processes[rank_id] - 1
        return name if not generation else f"{name}, process {generation}"

    def _late_s(self, group: Group, work_s: float) -> float:
        """How much later than it was due, and is due now, a loop comes round or notices that a pass is over.

        Not at all if its threads have something to do. The latency ends with an event that the thread notes when it has
        worked for ``work_s``, which comes on top.
        """
        idle_s = max(self._threads[rank].idle_s for rank in group.ranks)
        if idle_s < self.host.asleep_after_s:
            return max(0.0, self.host.nap_wakeup_s - work_s) if idle_s else 0.0
        if group not in self._wakeups:
            name = f"wake-ups of {group.side.value}{group.instance}"
            own = self._of_process(name, group.cores[0].rank_id)
            self._wakeups[group] = self._spread(self.host.wakeup_spread, own)
        return max(0.0, self._wakeups[group].draw() * self._wakeup_s - work_s)

    # --- what reaches a process ---

    def _hand_out(self, request: Request, encode: Group, language: Group) -> None:
        orders_s = self.host.order_s * (len(encode.ranks) + len(language.ranks))
        self._router.run(orders_s, super()._hand_out, request, encode, language)

    def _handed_out_at(self, encode: Group, language: Group) -> float:
        orders_s = self.host.order_s * (len(encode.ranks) + len(language.ranks))
        lasts_s = self._submissions.draw() * self.link.submit_latency_s
        passes_s = max(0.0, lasts_s - orders_s - self.host.message_s - self._before_s)
        # One router hands out all requests, so none overtakes another.
        self._handed_out_s = max(self._handed_out_s, self.clock._now + passes_s)
        return self._handed_out_s

    def _receive(self, rank: Rank, message: object) -> None:
        # All of what a message takes longer, or less long, lies in the thread: they come in the order they were sent.
        more_s = (self._messages[rank].draw() - 1.0) * self.link.control_latency_s
        self.processors.run(self.host.message_s, 1.0, self._take, rank, message, more_s)

    def _take(self, rank: Rank, event: object, more_s: float = 0.0) -> None:
        before_s = max(0.0, self._before_s + more_s)
        self._threads[rank].enter(self.processors.run, before_s, 1.0, self._taken, rank, event)

    def _taken(self, rank: Rank, event: object) -> None:
        if not rank.gone:
            self._input(rank, event)
        elif isinstance(event, EncodeRequest | LanguageRequest):
            self.refuse(rank.core.rank_id, (event.room, event.incarnation), PROCESS_ENDED)
        self.processors.run(self._after_s, 1.0, self._threads[rank].leave)

    def _conclude(self, rank_id: RankId, conclusion: Conclude, late_s: float = 0.0) -> None:
        self.processors.run(self.host.message_s, 1.0, self._router.run, self.host.order_s, _nothing)
        super()._conclude(rank_id, conclusion, late_s)

    # --- turns: the threads of a group meet, agree, and each acts on it ---

    def _plan_turn(self, group: Group, not_before_s: float) -> None:
        group.turn_due = True
        if group in self._meetings:
            return  # planned when this turn is over
        self.clock.call_last_at(group.grid.next_s(not_before_s), group.order, self._due, group, False)

    def _plan_idle_turn(self, group: Group) -> None:
        """Hold the next turn of a group in which nothing is due, if it can be in anybody's way."""
        if len(group.ranks) == 1 or group.turn_due:
            return
        if any(core.rooms for core in group.cores) and self._others_at_work():
            self.clock.remind_at(group.grid.next_s(self.clock._now), self._due, group, True)

    def _others_at_work(self) -> bool:
        """Whether anything goes on, or is to come, but idle turns: they must not keep each other up."""
        return self.clock.ahead - self.processors.calls > 0 or self.processors.running > self._idle_works

    def _due(self, group: Group, idle: bool) -> None:
        """The clock says that the group turns; its threads may still be asleep."""
        if group.down or (idle and (group.turn_due or group in self._meetings)):
            return
        late_s = self._late_s(group, self.host.turn_s)
        if not late_s:
            self._meet(group, idle)
        elif idle:
            self.clock.remind_at(self.clock._now + late_s, self._meet, group, idle)
        else:
            self.clock.call_last_at(self.clock._now + late_s, group.order, self._meet, group, idle)

    def _meet(self, group: Group, idle: bool) -> None:
        if group.down or (idle and (group.turn_due or group in self._meetings)):
            return
        group.turn_due = True
        meeting = self._meetings[group] = _Meeting(group, idle=idle)
        meeting.cold = {rank for rank in group.ranks if self._threads[rank].idle_s >= self.host.asleep_after_s}
        for rank in group.ranks:
            self._threads[rank].enter(self._met, meeting)

    def _met(self, meeting: _Meeting) -> None:
        """One more rank of the group is there; when all are, they agree."""
        meeting.left -= 1
        if meeting.left:
            return
        group = meeting.group
        meeting.left = size = len(group.ranks)
        if size == 1:
            self._agree(meeting)
            return
        lasts_s = self._collective_s(group)
        if group.cores[0].candidates():
            lasts_s += self._collective_s(group)
        width = self.host.collective_processors
        self._idle_works += size if meeting.idle else 0
        for _ in group.ranks:
            self.processors.run(width * lasts_s, width, self._agree, meeting)

    def _collective_s(self, group: Group) -> float:
        if group not in self._lengths:
            name = f"all-reduces of {group.side.value}{group.instance}"
            self._lengths[group] = self._draws(self._of_process(name, group.cores[0].rank_id))
        return self.host.collective_s(float(self._lengths[group].random()))

    def _agree(self, meeting: _Meeting) -> None:
        """One more rank has the agreement; when all have, each acts on it."""
        group = meeting.group
        self._idle_works -= meeting.idle
        meeting.left -= 1
        if meeting.left:
            return
        meeting.left = len(group.ranks)
        now = self.clock._now
        group.turn_due = False
        if group.down or (self._faults is not None and self._is_held_up(group, now)):
            for rank in group.ranks:
                self._threads[rank].leave()
            return
        self.turns += 1
        meeting.began_s = now
        turn = hold_turn(group.cores)
        # The work of a turn comes before what it decides. One that nobody asked for has none unless something came.
        work_s = 0.0 if meeting.idle and not turn.progress else self.host.turn_s
        for rank in group.ranks:
            self.processors.run(work_s, 1.0, self._turned, meeting, rank, turn)

    def _turned(self, meeting: _Meeting, rank: Rank, turn: Turn) -> None:
        """A rank has worked on the turn and now acts on it: an encode rank when all have, as they share a pass."""
        if meeting.group.down:
            self._threads[rank].leave()
        elif meeting.group.side is Side.LANGUAGE:
            meeting.rest[rank] = iter(rank.handle(turn, self.clock._now))
            self._act(meeting, rank)
        else:
            meeting.left -= 1
            if not meeting.left:
                meeting.left = len(meeting.group.ranks)
                self._start_pass(meeting, turn)

    def _is_held_up(self, group: Group, now: float) -> bool:
        """Whether a fault keeps the group, which has come together, from its turn."""
        meeting = self._meetings.pop(group)
        if self._held_up(group, now):
            return True
        self._meetings[group] = meeting
        return False

    def _acted(self, meeting: _Meeting, rank: Rank) -> bool:
        """A rank has acted on the turn and goes on with what has come meanwhile; whether it was the last to do so."""
        self._threads[rank].leave()
        meeting.left -= 1
        return not meeting.left

    def _finish(self, meeting: _Meeting, lasts_s: float) -> None:
        """All ranks have acted on the turn."""
        group = meeting.group
        if self._meetings.get(group) is not meeting:
            return  # its processes have ended
        del self._meetings[group]
        due, group.turn_due = group.turn_due, False
        self._end_turn(group, meeting.began_s, lasts_s)
        if due and not group.turn_due:
            self._plan_turn(group, self.clock._now)
        self._plan_idle_turn(group)

    # --- turns of the encode side ---

    def _start_pass(self, meeting: _Meeting, turn: Turn) -> None:
        group, now = meeting.group, self.clock._now
        started: list[tuple[Rank, Encoded]] = []
        work_s = 0.0
        filled_bytes: list[int] = []
        for rank in group.ranks:
            own_s, tokens = 0.0, 0
            for action in rank.handle(turn, now):
                if isinstance(action, StartEncode):
                    own_s += action.encode_s
                    tokens += action.total_tokens
                    started.append((rank, Encoded(action.room, action.incarnation)))
                elif isinstance(action, Conclude):
                    self._conclude(rank.core.rank_id, action)
                else:
                    self._carry_out(rank, [action])
            work_s = max(work_s, own_s)
            filled_bytes.append(tokens * self._layout.bytes_per_token)
        pass_s = 0.0
        if started:
            pass_s = group.passes.encoder_s(work_s)
            self.clock.call_after(pass_s, self._pass_over, group, started)
        for rank, bytes_ in zip(group.ranks, filled_bytes, strict=True):
            self.processors.run(bytes_ / self.host.fill_bandwidth_Bps, 1.0, self._filled, meeting, rank, now + pass_s)

    def _pass_over(self, group: Group, started: list[tuple[Rank, Encoded]]) -> None:
        """The encoder pass is over; its threads may still be asleep."""
        self.clock.call_after(self._late_s(group, self._before_s), self._encoded, started)

    def _filled(self, meeting: _Meeting, rank: Rank, end_s: float) -> None:
        if self._acted(meeting, rank):
            self._finish(meeting, max(end_s, self.clock._now) - meeting.began_s)

    # --- turns of the language side ---

    def _act(self, meeting: _Meeting, rank: Rank) -> None:
        """Let a rank act on the turn until it has something to copy, or to the end."""
        for action in meeting.rest[rank]:
            if isinstance(action, CopyOut):
                copy_s = self.link.copy_s(action.tokens * self._layout.bytes_per_token) * meeting.group.slowness
                copy_s *= self._copies[rank].draw()
                if rank in meeting.cold:
                    meeting.cold.discard(rank)
                    copy_s += self.host.cold_copy_s
                self.processors.run(copy_s, 1.0, self._act, meeting, rank)
                return
            self._act_on(meeting, rank, action)
        self.copied_s = max(self.copied_s, self.clock._now)
        if not self._acted(meeting, rank) or meeting.group.down:
            return
        group = meeting.group
        if group.compared:
            must_answer_alike(group.compared)
        lasts_s = self.clock._now - meeting.began_s
        if group.passes.waiting:
            done, pass_s = group.passes.prefill()
            lasts_s += pass_s
            if self._services.prefills:
                self.copied_s = max(self.copied_s, self.clock._now + pass_s)
            if self._tells_prefill:
                self.clock.call_after(pass_s, self._prefill_over, group, done)
        self._finish(meeting, lasts_s)

    def _prefill_over(self, group: Group, done: list[Delivered]) -> None:
        """The prefill pass is over; its threads may still be asleep."""
        self.clock.call_after(self._late_s(group, 0.0), self._prefilled, group, done)

    def _act_on(self, meeting: _Meeting, rank: Rank, action: Action) -> None:
        """What needs no time of its own."""
        if isinstance(action, Send):
            self._send(rank, action, self._control_s)
        elif isinstance(action, Deliver):
            if rank is meeting.group.ranks[0]:  # the ranks of a group deliver alike
                meeting.group.passes.add(action)
        elif isinstance(action, Conclude):
            self._conclude(rank.core.rank_id, action)
        elif isinstance(action, Note):
            if self._recorder is not None:
                self._note(rank.core.rank_id, action)
        else:
            raise TypeError(f"{rank.core.rank_id} may not ask for {type(action).__name__} in a turn")

    # --- processes that end ---

    def end_processes(self, side: Side, instance: int) -> None:
        """As in ``Cluster``; the copies under way count as done, since what they are for has been decided."""
        group = self._groups[side, instance]
        meeting = self._meetings.pop(group, None)
        if meeting is not None:
            for rank, actions in meeting.rest.items():
                for action in actions:
                    if not isinstance(action, CopyOut):
                        self._act_on(meeting, rank, action)
        super().end_processes(side, instance)


def _nothing() -> None:
    """Nobody waits for it."""


def make_cluster(
    scenario: Scenario,
    link: LinkProfile,
    clock: Clock,
    recorder: Recorder | None = None,
    on_concluded: Callable[[int], None] | None = None,
    faults: Faults | None = None,
    draws: Callable[[str], Generator] | None = None,
) -> Cluster:
    """The cluster that a link asks for: with a host, or with a processor for every thread."""
    if link.host is None:
        return Cluster(scenario, link, clock, recorder, on_concluded, faults)
    return HostedCluster(scenario, link, clock, recorder, on_concluded, faults, draws)


def _unseeded(name: str) -> Generator:
    return stream(0, 0, "host", name)
