"""Requests on their way: from the router to the ranks of two instances, until they are concluded on all of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, final

from mypy_extensions import mypyc_attr

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.lifecycle import life_of_the_lost
from bufferlab.protocol.messages import Conclude, EncodeRequest, LanguageRequest, Note, StartWrite
from bufferlab.protocol.rank import RoomKey
from bufferlab.protocol.status import Status
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.clock import Call
from bufferlab.sim.cluster.group import Group, Rank
from bufferlab.sim.cluster.host import Host
from bufferlab.sim.cluster.state import State

# Members of enumerations by names of this module: a global is found many times as fast.
LANGUAGE: Final = Side.LANGUAGE
SUCCESS: Final = Status.Success


Concluded = Callable[[bool], object]
"""Is told at the end of a request whether it was served."""


@mypyc_attr(free_list_len=1)
@final
class Outcome:
    """What is known of a submitted request. ``memory``: whose blocks its last offers name, where processes may end."""

    __slots__ = ("concluded", "delivered", "left", "memory")

    def __init__(self, ranks: int, concluded: Concluded | None) -> None:
        self.left = ranks
        self.delivered = True
        self.memory: dict[RankId, Rank] = {}
        self.concluded = concluded


@final
class Requests:
    """All requests of a run; ``outcomes`` of those that were submitted and are not concluded on all of their ranks.

    ``before`` is called with every request just before its submission.
    """

    def __init__(self, state: State, host: Host, on_concluded: Callable[[int], None] | None) -> None:
        self.submitted = 0
        self.succeeded = 0
        self.failed = 0
        self.outcomes: dict[RoomKey, Outcome] = {}
        self.before: Callable[[Request], object] | None = None
        self._state = state
        self._host = host
        self._clock = state.clock
        self._scenario = state.scenario
        self._intake = state.scenario.intake
        self._prepares = state.scenario.services.preprocess_per_token_s > 0
        self._faults = state.faults
        self._on_concluded = on_concluded
        self._concluded_late_s = 0.0

    # --- where they come from ---

    def feed(self, requests: Iterator[Request]) -> None:
        """Submit ``requests`` at their times, pulling the next one when the last arrives.

        Requests that are out of order, or for an instance that is not there, raise ValueError.
        """
        request = next(requests, None)
        if request is None:
            return
        if not request.arrival_s >= self._clock._now:
            raise ValueError(
                f"room {request.room}: arrival_s is {request.arrival_s}, it must not lie before its predecessor's"
            )
        self._clock.put_at(request.arrival_s, _Arrival(self, request, requests))

    def feed_closed(self, requests: Iterator[Request], concurrency: int) -> None:
        """Submit ``concurrency`` requests now and one more whenever one is concluded, whatever times they have.

        ``before`` is told of a request with the time of its submission as its arrival.
        """
        self._clock.call_after(0.0, self._submit_first, requests, concurrency)

    def _submit_first(self, requests: Iterator[Request], count: int) -> None:
        def concluded(_: bool) -> None:
            # Not at once: the iteration that concluded it is not over, and its client waits for the copies, too.
            self._clock.call_after(self._concluded_late_s, submit_next)

        def submit_next() -> bool:
            request = next(requests, None)
            if request is None:
                return False
            self.submit_now(request, concluded)
            return True

        while count and submit_next():
            count -= 1

    def submit_now(self, request: Request, concluded: Concluded | None = None) -> None:
        """Submit a request, whatever time it has; ``concluded(served)`` is called when it is over on all its ranks."""
        self.submit(request.arriving(self._clock._now), concluded)

    # --- to the ranks ---

    def submit(self, request: Request, concluded: Concluded | None = None) -> None:
        """Give a request to all ranks of its two instances, now. Raises ValueError for an unknown instance."""
        if self.before is not None:
            self.before(request)
        encodes, languages = self._state.encode_groups, self._state.language_groups
        if not (0 <= request.encode_instance < len(encodes) and 0 <= request.language_instance < len(languages)):
            raise ValueError(
                f"room {request.room} wants encode instance {request.encode_instance} and language instance "
                f"{request.language_instance}; there are {self._scenario.encode_instances} and "
                f"{self._scenario.language_instances}"
            )
        encode, language = encodes[request.encode_instance], languages[request.language_instance]
        self.submitted += 1
        key = (request.room, request.incarnation)
        self.outcomes[key] = Outcome(len(encode.ranks) + len(language.ranks), concluded)
        if encode.down or language.down:
            refusal = self._state.instances.refusal(encode.key, language.key)
            for rank in (*encode.ranks, *language.ranks):
                self.refuse(rank.id, key, refusal)
            return
        if self._faults is not None:
            encode.coming[key] = language.coming[key] = None
        self._host.hand_out(request, encode, language)

    def reached(self, request: Request, encode: Group, language: Group) -> None:
        """A request reaches the processes of its instances."""
        encode_request = self._intake.encode_request(request)
        if self._prepares:
            lasts_s = self._intake.preprocess_s(request) * encode.slowness
            ready_s = encode.processors.give(self._clock._now, lasts_s)
            self._clock.put_at(ready_s, _Prepared(self, encode, encode_request))
        else:
            self.submit_to(encode, encode_request)
        self.submit_to(language, self._intake.language_request(request))

    def submit_to(self, group: Group, request: EncodeRequest | LanguageRequest) -> None:
        """A request is ready for the ranks of a group."""
        if group.down:
            return  # it was lost with these processes
        if self._faults is not None:
            del group.coming[request.room, request.incarnation]
        for rank in group.ranks:
            self._host.receive(rank, request)

    # --- to their ends ---

    def conclude(self, rank_id: RankId, conclusion: Conclude, late_s: float = 0.0) -> None:
        """A request is over on a rank, or will be when the copies of this iteration are, in ``late_s``."""
        self._host.report_conclusion()
        key = (conclusion.room, conclusion.incarnation)
        outcome = self.outcomes[key]
        outcome.left -= 1
        # A request is served when all language ranks have it, whatever the encode side came to think of it.
        if conclusion.status is not SUCCESS and rank_id.side is LANGUAGE:
            outcome.delivered = False
        if outcome.left:
            return
        del self.outcomes[key]
        if outcome.delivered:
            self.succeeded += 1
        else:
            self.failed += 1
        self._concluded_late_s = late_s
        if self._on_concluded is not None:
            self._on_concluded(1)
        if outcome.concluded is not None:
            outcome.concluded(outcome.delivered)

    def refuse(self, rank_id: RankId, key: RoomKey, reason: str) -> None:
        """A request never gets to a rank: its process ended before, or nobody is to have it."""
        if self._state.recorder is not None:
            for event, status, detail in life_of_the_lost(reason):
                self._state.note(rank_id, Note(key[0], event, status, 0, 0, detail))
        self.conclude(rank_id, Conclude(*key, Status.Failed, reason))
        if self._faults is not None:
            self._faults.lost(rank_id, key)

    def is_lost(self, write: StartWrite) -> bool:
        """Whether the memory that a write goes to is not there any more, because its process has ended."""
        outcome = self.outcomes.get((write.room, write.incarnation))
        target = outcome.memory.get(write.destination) if outcome is not None else None
        return target is not None and target.gone


@mypyc_attr(free_list_len=1)
@final
class _Arrival(Call):
    """A request arrives at the router, and the next one is pulled."""

    def __init__(self, all_requests: Requests, request: Request, rest: Iterator[Request]) -> None:
        self._requests = all_requests
        self._request = request
        self._rest = rest

    def run(self) -> None:
        self._requests.submit(self._request)
        self._requests.feed(self._rest)


@mypyc_attr(free_list_len=1)
@final
class _Prepared(Call):
    """A processor has prepared a request's images."""

    def __init__(self, requests: Requests, group: Group, request: EncodeRequest) -> None:
        self._requests = requests
        self._group = group
        self._request = request

    def run(self) -> None:
        self._requests.submit_to(self._group, self._request)
