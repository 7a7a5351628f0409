"""Fault drills: small measured runs in which one thing goes wrong, and what must come of each.

Every drill has two encode and two language instances, so that something is left to go on. What is required of all of
them alike: the rooms that may fail are those that met the fault; all others are delivered bit by bit as they were sent;
no block is lost or owned twice (a pool that gave one away twice would count more free blocks than it has); a room that
fails does so within the drill's time; and nothing that a dead or hung process still wrote is ever delivered.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.recording import Event
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.values import replaced
from bufferlab.real.control.spec import Heartbeats
from bufferlab.real.faults import CorruptFrame, Kill, Pause, RealFault, RefuseRegistration, Restart
from bufferlab.real.run.launcher import RealOutcome, run_real

LANGUAGE, ENCODE = RankId(Side.LANGUAGE, 0, 0), RankId(Side.ENCODE, 0, 0)
HEARTBEATS = Heartbeats(interval_s=1.0, failures=2)
NOTICED_S = (HEARTBEATS.failures + 1.5) * HEARTBEATS.interval_s
"""How soon everybody knows of a process that is silent: the encode side allows half a beat more than the probes that
failed and looks twice a beat, and a beat is left for a busy machine."""

LATE_S = 1.0
"""What a busy machine may add to any time."""

STRUCK = 8
"""The room whose write the fault waits for. It takes several chunks, so that it cannot be over before the fault."""

DEFAULT_TOKENS = 4096


class Drill(msgspec.Struct, frozen=True, kw_only=True):
    """One drill.

    ``may_fail``: rooms that met the fault. ``must_fail``: those of them that cannot get away. ``concludes_s``: how long
    after the fault the last of the failed ones is over. ``deadlocks``: whether rooms get into one.
    """

    name: str
    scenario: Scenario
    requests: tuple[Request, ...]
    plan: tuple[RealFault, ...] = ()
    may_fail: frozenset[int] = frozenset()
    must_fail: frozenset[int] = frozenset()
    concludes_s: float = NOTICED_S + LATE_S
    deadlocks: bool = False


class DrillResult(msgspec.Struct, frozen=True):
    """What came of a drill. ``problems``: one sentence for everything that was not as required.

    ``concluded_s``: from the fault to the end of the last room that failed while its instances were up.
    """

    drill: Drill
    outcome: RealOutcome
    wall_s: float
    failed: tuple[int, ...]
    refused: tuple[int, ...]
    concluded_s: float
    others: int
    others_finished: int
    problems: tuple[str, ...]


def _scenario(**changes: object) -> Scenario:
    fields: dict[str, object] = {
        # 4 KiB a token, so a chunk of 4096 tokens is on its way for some milliseconds and can be struck there.
        "block_tokens": 256,
        "hidden": 2048,
        "sizing_options": {"tokens": DEFAULT_TOKENS},
        "encode_instances": 2,
        "language_instances": 2,
        "encode_blocks": 192,
        "language_blocks": 192,
        "timeout_s": 6.0,
    }
    return Scenario(**(fields | changes))  # type: ignore[arg-type]


def _requests(count: int = 24, gap_s: float = 0.1) -> tuple[Request, ...]:
    """Requests to all four pairs of instances in turn; every eighth needs several chunks."""
    return tuple(
        Request(
            room=room,
            arrival_s=gap_s * room,
            total_tokens=24_000 if room % STRUCK == 0 else 3000 + 17 * room,
            encode_instance=room // 2 % 2,
            language_instance=room % 2,
        )
        for room in range(1, count + 1)
    )


def _rooms(requests: tuple[Request, ...], fits: Callable[[Request], bool]) -> frozenset[int]:
    return frozenset(request.room for request in requests if fits(request))


def _to_language(request: Request) -> bool:
    return request.language_instance == LANGUAGE.instance


def _from_encode(request: Request) -> bool:
    return request.encode_instance == ENCODE.instance


def _process_drills() -> list[Drill]:
    requests, slow = _requests(), _requests(count=48, gap_s=0.4)
    to_language, from_encode = _rooms(slow, _to_language), _rooms(slow, _from_encode)
    struck = frozenset({STRUCK})
    restart = Restart(side=Side.LANGUAGE, instance=0, down_s=0.5, on_write_of=STRUCK)
    return [
        Drill(
            name="kill a language rank",
            scenario=_scenario(),
            requests=requests,
            plan=(Kill(rank=LANGUAGE, on_write_of=STRUCK),),
            may_fail=to_language,
            must_fail=struck,
        ),
        Drill(
            name="kill one of two ranks of a language instance",
            scenario=_scenario(language_tp=2, encode_tp=2),
            requests=requests,
            plan=(Kill(rank=LANGUAGE._replace(rank=1), on_write_of=STRUCK),),
            may_fail=to_language,
            must_fail=struck,
        ),
        Drill(
            name="stop a language rank, then continue it",
            scenario=_scenario(),
            requests=requests,
            plan=(Pause(rank=LANGUAGE, lasts_s=5.0, on_write_of=STRUCK),),
            may_fail=to_language,
            must_fail=struck,
            # The stopped rank itself says so only when it goes on.
            concludes_s=max(5.0, NOTICED_S) + LATE_S,
        ),
        Drill(
            name="kill an encode rank",
            scenario=_scenario(),
            requests=requests,
            plan=(Kill(rank=ENCODE, on_write_of=STRUCK),),
            may_fail=from_encode,
            must_fail=struck,
        ),
        Drill(
            name="stop an encode rank, then continue it",
            scenario=_scenario(),
            requests=requests,
            plan=(Pause(rank=ENCODE, lasts_s=5.0, on_write_of=STRUCK),),
            may_fail=from_encode,
            must_fail=struck,
            concludes_s=max(5.0, NOTICED_S) + LATE_S,
        ),
        Drill(
            name="restart a language instance on a new port",
            scenario=_scenario(),
            requests=slow,
            plan=(restart,),
            may_fail=to_language,
            must_fail=struck,
        ),
        Drill(
            name="restart an encode instance on a new port",
            scenario=_scenario(),
            requests=slow,
            plan=(Restart(side=Side.ENCODE, instance=0, down_s=0.5, on_write_of=STRUCK),),
            may_fail=from_encode,
            must_fail=struck,
        ),
        _old_offers(),
        Drill(
            name="refuse the registration of a restarted rank",
            scenario=_scenario(),
            requests=slow,
            plan=(restart, RefuseRegistration(rank=LANGUAGE, generation=1)),
            may_fail=to_language,
            must_fail=struck,
        ),
        Drill(
            name="refuse the registration of its memory",
            scenario=_scenario(),
            requests=slow,
            plan=(restart, RefuseRegistration(rank=LANGUAGE, generation=1, what="memory")),
            may_fail=to_language,
            must_fail=struck,
        ),
    ]


def _old_offers() -> Drill:
    """An encode rank stands still with offers in its inbox while the process that made them is replaced."""
    requests = tuple(
        replaced(request, arrival_s=request.arrival_s + (12.0 if request.room > 12 else 0.0)) for request in _requests()
    )
    waiting = _rooms(requests, lambda one: one.room <= 12 and (_to_language(one) or _from_encode(one)))
    return Drill(
        name="old offers from a language process that was replaced",
        scenario=_scenario(),
        requests=requests,
        plan=(
            Pause(rank=ENCODE, lasts_s=5.0, time_s=0.55),
            Restart(side=Side.LANGUAGE, instance=0, down_s=0.1, time_s=1.5),
        ),
        may_fail=waiting,
        must_fail=frozenset({8, 12}),
        concludes_s=5.0 + NOTICED_S + LATE_S,
    )


def _frame_drills() -> list[Drill]:
    requests = _requests()
    scenario = _scenario(timeout_s=4.0)
    return [
        Drill(
            name=f"corrupt the {message} of one room",
            scenario=scenario,
            requests=requests,
            plan=(CorruptFrame(sender=sender, room=STRUCK, message=message),),
            may_fail=frozenset({STRUCK}),
            must_fail=frozenset({STRUCK}),
            concludes_s=4.0 + LATE_S,
        )
        for sender, message in ((LANGUAGE, "Offer"), (ENCODE, "ChunkStatus"))
    ]


def _pool_drills() -> list[Drill]:
    """Everything at once into pools that hold a few of the requests."""
    requests = tuple(
        Request(room=room, arrival_s=0.0, total_tokens=3000, encode_instance=room % 2, language_instance=0)
        for room in range(1, 17)
    )
    small = {"language_blocks": 8, "sizing_options": {"tokens": 512}, "language_instances": 1, "encode_blocks": 120}
    everything = frozenset(request.room for request in requests)
    return [
        Drill(name="run the pool dry (window)", scenario=_scenario(**small), requests=requests),
        Drill(
            name="run the pool dry (alloc_then_free)",
            # A request takes 2 blocks, then wants 10 more while it holds them: six of them and nothing moves.
            scenario=_scenario(**(small | {"language_blocks": 12}), discipline="alloc_then_free", timeout_s=3.0),
            requests=requests,
            may_fail=everything,
            concludes_s=60.0,  # the rooms behind those of the first deadlock make the next ones
            deadlocks=True,
        ),
    ]


def all_drills() -> list[Drill]:
    """All of them, in the order of the table."""
    return [*_process_drills(), *_frame_drills(), *_pool_drills()]


def find_drill(name: str) -> Drill:
    """The drill called ``name``. Raises ValueError listing the known ones."""
    known = {drill.name: drill for drill in all_drills()}
    if name not in known:
        raise ValueError(f"unknown drill {name!r}; known: {', '.join(known)}")
    return known[name]


def run_drill(drill: Drill) -> DrillResult:
    """Run it and compare what happened with what is required."""
    started_s = time.perf_counter()
    outcome = run_real(drill.scenario, drill.requests, heartbeats=HEARTBEATS, plan=drill.plan)
    wall_s = time.perf_counter() - started_s
    refused = {one.room for one in outcome.conclusions if one.rank_id is None}
    failed = outcome.failed_rooms - refused
    others = {request.room for request in drill.requests} - drill.may_fail
    # A request may arrive after the fault, and is then to be counted from its arrival.
    begun_s = outcome.incidents[0].time_s if outcome.incidents else 0.0
    arrival_s = {request.room: request.arrival_s for request in drill.requests}
    concluded_s = max((outcome.concluded_s({room}) - max(begun_s, arrival_s[room]) for room in failed), default=0.0)
    return DrillResult(
        drill=drill,
        outcome=outcome,
        wall_s=wall_s,
        failed=tuple(sorted(failed)),
        refused=tuple(sorted(refused)),
        concluded_s=concluded_s,
        others=len(others),
        others_finished=len(others & outcome.succeeded_rooms),
        problems=tuple(_problems(drill, outcome, failed, refused, concluded_s)),
    )


def _problems(drill: Drill, outcome: RealOutcome, failed: set[int], refused: set[int], concluded_s: float) -> list[str]:
    found = outcome.wrong
    rooms = {request.room: request.total_tokens for request in drill.requests}
    ended = outcome.failed_rooms | outcome.succeeded_rooms
    for what, wrong in (
        ("failed without having met the fault", (failed | refused) - drill.may_fail),
        ("succeeded in spite of the fault", drill.must_fail & outcome.succeeded_rooms),
        ("never ended", rooms.keys() - ended),
    ):
        if wrong:
            found.append(f"rooms {sorted(wrong)} {what}")
    if concluded_s > drill.concludes_s:
        found.append(f"the last failed room was over after {concluded_s:.2f} s, not within {drill.concludes_s:.2f} s")
    # Of a process that was killed it is not known what it compared.
    ended_s = {one.what.partition(" ")[0]: one.time_s for one in outcome.incidents if " ended with status " in one.what}
    delivered = [
        record.room
        for record in outcome.records
        if record.event is Event.DELIVERED and record.time_s > ended_s.get(str(record.rank_id), -1.0)
    ]
    if outcome.verified_rooms != len(delivered):
        found.append(f"{len(delivered)} embeddings were delivered and {outcome.verified_rooms} compared")
    bytes_ = sum(rooms[room] for room in delivered) * drill.scenario.layout.bytes_per_token
    if outcome.verified_bytes != bytes_:
        found.append(f"{bytes_} bytes were delivered and {outcome.verified_bytes} compared")
    if drill.deadlocks != bool(outcome.deadlocks):
        found.append("no deadlock was seen" if drill.deadlocks else f"a deadlock was seen: {outcome.deadlocks[0]}")
    found.extend(_not_recovered(drill, outcome))
    found.extend(str(incident) for incident in outcome.incidents if incident.what.startswith("did not happen"))
    return found


def _not_recovered(drill: Drill, outcome: RealOutcome) -> list[str]:
    """Rooms of a restarted instance that came when it was up again and failed all the same, or that none came."""
    found = []
    for incident in outcome.incidents:
        name, _, rest = incident.what.partition(" ")
        if rest != "is up again":
            continue
        later = {
            request.room
            for request in drill.requests
            if request.arrival_s > incident.time_s
            and name in (f"encode{request.encode_instance}", f"language{request.language_instance}")
        }
        if later & outcome.failed_rooms:
            found.append(f"rooms {sorted(later & outcome.failed_rooms)} failed when {name} was up again")
        if not later:
            found.append(f"no request came when {name} was up again")
    return found
