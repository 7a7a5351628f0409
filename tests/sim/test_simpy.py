"""SimPy on the virtual clock: its processes run there as in an environment of its own, and beside a cluster's ranks."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simpy import Container, Environment, Interrupt, PreemptiveResource, PriorityResource, Resource, Store
from simpy.events import Event as SimpyEvent

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.faults import ClientAbort, Hang, Restart, Slow
from bufferlab.protocol.messages import PeerDown, PeerUp
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.values import replaced
from bufferlab.sim.clock import Call, Clock
from bufferlab.sim.cluster.cluster import Cluster
from bufferlab.sim.faults import FaultPlan, PlannedFaults
from bufferlab.sim.host.costs import HostCosts
from bufferlab.sim.network.link import LinkProfile, load_profile
from bufferlab.sim.processes import environment_of, on_plain_simpy
from bufferlab.sim.run import SimulationOutcome, simulate

Steps = Generator[SimpyEvent, Any, Any]
KINDS = (Clock, on_plain_simpy)
"""Both kinds of clock: its own queue, and a plain environment's."""

SERVED = Scenario(
    block_tokens=16,
    hidden=64,
    encode_blocks=120,
    language_blocks=60,
    sizing_options={"tokens": 64},
    prefill_batch_tokens=500,
    services=ServiceTimes(
        encode_base_s=0.01, encode_per_token_s=1e-4, prefill_base_s=0.02, preprocess_per_token_s=2e-5
    ),
)
PLAIN = load_profile("tcp-loopback")
SHARED = msgspec.structs.replace(
    load_profile("cx7-400g"), bandwidth_Bps=2e6, shared_by="rank", adapters=1, first_contact_s=0.01
)
HOSTED = msgspec.structs.replace(
    PLAIN,
    host=HostCosts(
        processors=2, input_s=1e-4, iteration_s=1e-4, message_s=5e-5, command_s=8e-5, write_processors=0.8,
        collective_processors=0.5, collective_quantiles_s=(3e-4, 4e-4, 5e-4),
    ),
)  # fmt: skip


def requests(count: int = 40, *, gap_s: float = 0.01, instances: int = 1) -> list[Request]:
    """Some of each size. Gaps and periods of the loops make many ties."""
    return [
        Request(
            room, room // 2 * gap_s, 40 + 37 * room % 300, encode_instance=room % instances,
            language_instance=room // 2 % instances,
        )
        for room in range(count)
    ]  # fmt: skip


def run(
    scenario: Scenario,
    given_requests: Iterable[Request],
    link: LinkProfile,
    clock: Clock | None = None,
    plan: FaultPlan | None = None,
    **options: Any,
) -> tuple[list[Record], SimulationOutcome]:
    records: list[Record] = []
    faults = PlannedFaults(plan) if plan is not None else None
    outcome = simulate(
        scenario, given_requests, link, recorder=lambda *row: records.append(Record(*row)), faults=faults, clock=clock,
        **options,
    )  # fmt: skip
    return records, outcome


# --- a plain environment gives the same bytes ------------------------------------------------------------------------

PAIRS = msgspec.structs.replace(SERVED, encode_tp=2, language_tp=2)
WIDE = msgspec.structs.replace(SERVED, encode_tp=2, language_tp=3, encode_instances=2, language_instances=2)
TIGHT = msgspec.structs.replace(SERVED, language_blocks=20, encode_blocks=30, timeout_s=0.3)
ENCODE, LANGUAGE = RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0)
INCIDENTS = FaultPlan(
    seed=3,
    incidents=(
        ClientAbort(0.03, 5, (ENCODE, LANGUAGE)),
        Slow(rank=ENCODE, factor=2.0),
        Hang(0.05, LANGUAGE, 0.1),
        Restart(0.12, (Side.ENCODE, 1), 0.05),
    ),
)
RATES = FaultPlan(
    seed=5, lost_messages=0.05, doubled_messages=0.05, late_messages=0.1, most_delay_s=0.02, failed_writes=0.05,
    late_writes=0.05, most_late_s=0.05,
)  # fmt: skip
CONFIGURATIONS: dict[str, tuple[Scenario, LinkProfile, FaultPlan | None, dict[str, Any]]] = {
    "one rank a side": (SERVED, PLAIN, None, {}),
    "several ranks": (PAIRS, PLAIN, None, {}),
    "several instances": (WIDE, PLAIN, None, {}),
    "contended links": (
        msgspec.structs.replace(WIDE, transfer_workers=2, release_after_prefill=True), SHARED, None, {},
    ),
    "hosted": (SERVED, HOSTED, None, {}),
    "hosted ranks": (PAIRS, HOSTED, None, {}),
    "closed loop": (msgspec.structs.replace(WIDE, release_after_prefill=True), PLAIN, None, {"concurrency": 6}),
    "timeouts": (TIGHT, PLAIN, None, {}),
    "deadlocks": (msgspec.structs.replace(TIGHT, discipline="alloc_then_free"), PLAIN, None, {}),
    "incidents": (WIDE, PLAIN, INCIDENTS, {}),
    "rates of faults": (msgspec.structs.replace(PAIRS, timeout_s=1.0), SHARED, RATES, {}),
    "faults on a host": (msgspec.structs.replace(WIDE, timeout_s=1.0), HOSTED, INCIDENTS, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_plain_environment_as_the_clock_gives_the_same_records_and_outcome(name: str) -> None:
    scenario, link, plan, options = CONFIGURATIONS[name]
    given_requests = requests(instances=scenario.encode_instances)
    own, of_simpy = (run(scenario, given_requests, link, kind(), plan, **options) for kind in KINDS)
    assert len(own[0]) > 300
    assert own == of_simpy


class Mix:
    """Calls of every kind and SimPy's events, which make others when they come; ``seen``: what came, and when."""

    def __init__(self, clock: Clock, drawn: list[tuple[str, float, int, int]]) -> None:
        self.clock = clock
        self.drawn = iter(enumerate(drawn))
        self.seen: list[tuple[float, str]] = []
        self.calls: list[Call] = []
        self.waiting: list[SimpyEvent] = []
        self.sleeping: list[Any] = []
        self.store = Store(environment_of(clock))

    def make(self, count: int) -> None:
        for _ in range(count):
            number, (kind, delay_s, order, children) = next(self.drawn, (0, ("", 0.0, 0, 0)))
            time_s = self.clock.now + delay_s
            arguments = (f"{kind} {number}", children)
            match kind:
                case "call":
                    self.calls.append(self.clock.call_at(time_s, self.come, *arguments))
                case "after":
                    self.calls.append(self.clock.call_after(delay_s, self.come, *arguments))
                case "last":
                    self.clock.call_last_at(time_s, order, self.come, *arguments)
                case "reminder":
                    self.clock.remind_at(time_s, self.come, *arguments)
                case "withdraw" if self.calls:
                    self.clock.withdraw(self.calls.pop())
                case "process":
                    self.sleeping.append(environment_of(self.clock).process(self.sleep(delay_s, *arguments)))
                case "interrupt" if self.sleeping:
                    process = self.sleeping.pop()
                    if process.is_alive and process is not environment_of(self.clock).active_process:
                        process.interrupt("wake up")
                case "event":
                    self.waiting.append(environment_of(self.clock).event())
                    environment_of(self.clock).process(self.wait(self.waiting[-1], *arguments))
                case "succeed" if self.waiting:
                    self.waiting.pop().succeed()
                case "put":
                    self.store.put(number)
                case "get":
                    environment_of(self.clock).process(self.wait(self.store.get(), *arguments))

    def come(self, name: str, children: int) -> None:
        if name.startswith(("call", "after")):
            self.calls.clear()  # some of them have come; none of those may be withdrawn
        self.seen.append((self.clock.now, name))
        self.make(children)

    def sleep(self, delay_s: float, name: str, children: int) -> Steps:
        try:
            yield environment_of(self.clock).timeout(delay_s)
        except Interrupt:
            name += " interrupted"
        self.come(name, children)
        try:
            yield environment_of(self.clock).timeout(0.25) | environment_of(self.clock).timeout(0.5)
        except Interrupt:
            name += " interrupted"
        self.come(name + " again", 1)

    def wait(self, event: SimpyEvent, name: str, children: int) -> Steps:
        yield event
        self.come(name, children)


MIXES = st.lists(
    st.tuples(
        st.sampled_from(
            ["call", "after", "last", "reminder", "withdraw", "process", "interrupt", "event", "succeed", "put", "get"]
        ),
        st.sampled_from([0.0, 0.25, 0.5, 1 / 3]),
        st.integers(0, 2),
        st.integers(0, 3),
    ),
    min_size=5,
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(MIXES)
def test_any_mix_of_calls_and_events_comes_in_the_same_order_on_both_clocks(
    drawn: list[tuple[str, float, int, int]],
) -> None:
    found = []
    for kind in KINDS:
        mix = Mix(kind(), drawn)
        mix.make(5)
        counts = []
        while mix.clock.step():
            counts.append((mix.clock.now, mix.clock.events, mix.clock.ahead, mix.clock.reminders, mix.clock.peek()))
        found.append((mix.seen, counts))
    assert found[0] == found[1]
    assert [time_s for time_s, _ in found[0][0]] == sorted(time_s for time_s, _ in found[0][0])


# --- the clock as SimPy's environment --------------------------------------------------------------------------------


def shop(environment: Environment, seen: list[tuple[float, str]]) -> Steps:
    """A process that uses about everything SimPy has."""

    def note(what: object) -> None:
        seen.append((environment.now, str(what)))

    def use(resource: Any, name: str, lasts_s: float, **options: Any) -> Steps:
        with resource.request(**options) as mine:
            yield mine
            note(f"{name} has it")
            try:
                yield environment.timeout(lasts_s, name)
            except Interrupt as interrupt:
                note(f"{name} lost it to {interrupt.cause.by is not None}")

    def failing() -> Steps:
        yield environment.timeout(0.5)
        raise KeyError("broken")

    counter = Resource(environment, 2)
    for number in range(4):
        environment.process(use(counter, f"customer {number}", 1.0))
    desk = PriorityResource(environment)
    for number in range(3):
        environment.process(use(desk, f"request {number}", 1.0, priority=-number))
    line = PreemptiveResource(environment)
    environment.process(use(line, "first", 5.0, priority=1))
    yield environment.timeout(0.5)
    environment.process(use(line, "urgent", 0.25, priority=0))
    tank = Container(environment, 10.0, 0.0)
    tank.put(4.0)
    yield tank.get(3.0) & environment.timeout(0.25, "late")
    note(tank.level)
    try:
        yield environment.process(failing())
    except KeyError as error:
        note(error)
    found = yield environment.any_of([environment.timeout(2.0, "slow"), environment.timeout(1.0, "quick")])
    note(list(found.values()))
    yield environment.all_of([environment.timeout(2.0), environment.timeout(1.0)])
    note(environment.active_process is not None)
    return "over"


def test_what_is_written_for_simpy_runs_on_the_clock_as_on_its_own_environment() -> None:
    plain: list[tuple[float, str]] = []
    environment = Environment()
    assert environment.run(environment.process(shop(environment, plain))) == "over"
    seen: list[tuple[float, str]] = []
    on_clock = environment_of(Clock())
    assert on_clock.run(on_clock.process(shop(on_clock, seen))) == "over"
    assert seen == plain
    assert on_clock.now == environment.now == 4.25
    assert on_clock.active_process is None


@pytest.mark.parametrize("kind", KINDS)
def test_processes_and_calls_share_the_time(kind: Callable[[], Clock]) -> None:
    clock, seen = kind(), []
    environment = environment_of(clock)

    def process() -> Steps:
        for _ in range(2):
            yield environment.timeout(1.0)
            seen.append((environment.now, clock.now))

    clock.wait_for(environment.process(process()))
    clock.call_at(1.5, lambda: seen.append((environment.now, clock.now)))
    clock.run_while_busy()
    assert seen == [(1.0, 1.0), (1.5, 1.5), (2.0, 2.0)]
    assert (clock.busy, clock.peek()) == (False, math.inf)


def test_run_until_a_time_stops_there_and_goes_on() -> None:
    clock, seen = Clock(), []
    for time_s in (1.0, 2.0, 3.0):
        clock.call_at(time_s, seen.append, time_s)
    environment_of(clock).run(until=2)
    assert (seen, clock.now) == ([1.0], 2.0)
    environment_of(clock).run()
    assert (seen, clock.now) == ([1.0, 2.0, 3.0], 3.0)


def test_a_clock_begins_at_zero() -> None:
    with pytest.raises(ValueError, match="it is 5 in the environment, a clock begins at 0"):
        on_plain_simpy(Environment(5))
    clock = Clock()
    clock.call_at(1.0, lambda: None)
    clock.run_while_busy()
    with pytest.raises(ValueError, match="past"):
        environment_of(clock).schedule(environment_of(clock).event(), delay=-0.5)


# --- processes beside a run ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", [PLAIN, SHARED, HOSTED], ids=["plain", "shared", "hosted"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_process_that_submits_requests_gives_what_they_give_when_they_are_fed(
    kind: Callable[[], Clock], link: LinkProfile
) -> None:
    def arrivals(environment: Environment, cluster: Cluster) -> Steps:
        for room in range(20):
            cluster.submit(Request(room, 0.0, 40 + 37 * room % 300))
            yield environment.timeout(0.0625)

    told: list[Request] = []
    records, outcome = run(
        PAIRS, [], link, kind(), processes=lambda environment, cluster: [environment.process(arrivals(environment, cluster))],
        announce=told.append,
    )  # fmt: skip
    fed = run(PAIRS, [Request(room, room * 0.0625, 40 + 37 * room % 300) for room in range(20)], link)
    assert (outcome.submitted, outcome.succeeded) == (20, 20)
    assert records == fed[0]
    assert [request.arrival_s for request in told] == [room * 0.0625 for room in range(20)]


def test_a_client_waits_for_its_request_before_it_sends_the_next() -> None:
    served: list[tuple[float, bool]] = []

    def client(environment: Environment, cluster: Cluster) -> Steps:
        for room in range(5):
            over = environment.event()
            cluster.submit(Request(room, 0.0, 100), over.succeed)
            served.append(((yield over), environment.now))

    _, outcome = run(
        SERVED, [], PLAIN, processes=lambda environment, cluster: [environment.process(client(environment, cluster))]
    )
    closed = run(SERVED, [Request(room, 0.0, 100) for room in range(5)], PLAIN, concurrency=1)
    assert [one for one, _ in served] == [True] * 5
    assert outcome.succeeded == 5
    assert outcome.iterations == closed[1].iterations


def test_a_process_that_ends_an_instance_does_what_a_planned_restart_does() -> None:
    scenario = msgspec.structs.replace(SERVED, language_instances=2)
    given_requests = requests(instances=2)
    given_requests = [replaced(one, encode_instance=0) for one in given_requests]

    def operator(environment: Environment, cluster: Cluster) -> Steps:
        yield environment.timeout(0.05)
        cluster.end_processes(Side.LANGUAGE, 1)
        yield environment.timeout(0.02)
        cluster.give(ENCODE, PeerDown(RankId(Side.LANGUAGE, 1, 0)))
        yield environment.timeout(0.02)
        cluster.start_processes(Side.LANGUAGE, 1)
        cluster.give(ENCODE, PeerUp(RankId(Side.LANGUAGE, 1, 0)))

    found = [
        run(scenario, given_requests, PLAIN, kind(), processes=lambda e, c: [e.process(operator(e, c))])
        for kind in KINDS
    ]
    assert found[0] == found[1]
    reasons = {record.detail for record in found[0][0] if record.event is Event.FAILED}
    assert {"its process ended", "refused: language1 is down"} <= reasons
    assert found[0][1].failed > 0 < found[0][1].succeeded
    assert (found[0][1].unfinished, found[0][1].leftovers) == (0, ())


@pytest.mark.parametrize("link", [PLAIN, HOSTED], ids=["dedicated", "hosted"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_process_that_nobody_waits_for_ends_with_the_run_and_changes_nothing(
    kind: Callable[[], Clock], link: LinkProfile
) -> None:
    samples: list[tuple[float, int]] = []

    def sampler(environment: Environment, cluster: Cluster) -> Steps:
        while True:
            samples.append((environment.now, cluster.unfinished))
            yield environment.timeout(0.013)

    def begin(environment: Environment, cluster: Cluster) -> list[SimpyEvent]:
        environment.process(sampler(environment, cluster))
        return []

    records, outcome = run(PAIRS, requests(), link, kind(), processes=begin)
    alone = run(PAIRS, requests(), link)
    assert records == alone[0]
    assert outcome.iterations == alone[1].iterations
    assert outcome.end_s - samples[-1][0] < 0.013 * 1.0001
    assert max(unfinished for _, unfinished in samples) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_waits_for_a_process_without_end_says_so(kind: Callable[[], Clock]) -> None:
    clock = kind()
    clock.most_alone = 500

    def ticker(environment: Environment) -> Steps:
        while True:
            yield environment.timeout(0.01)

    with pytest.raises(RuntimeError, match=r"gone on for 500 events, to .* does not end"):
        run(
            SERVED, requests(10), PLAIN, clock,
            processes=lambda environment, _: [environment.process(ticker(environment))],
        )  # fmt: skip


def test_a_ticking_process_keeps_no_deadlock_alive() -> None:
    def ticker(environment: Environment) -> Steps:
        while True:
            yield environment.timeout(0.01)

    def begin(environment: Environment, _: Cluster) -> list[SimpyEvent]:
        environment.process(ticker(environment))
        return []

    scenario = msgspec.structs.replace(TIGHT, discipline="alloc_then_free", timeout_s=None)
    records, outcome = run(scenario, requests(), PLAIN, processes=begin)
    assert outcome.deadlock
    assert outcome.unfinished > 0
    assert records == run(scenario, requests(), PLAIN)[0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_process_raises_reaches_the_caller(kind: Callable[[], Clock]) -> None:
    def broken(environment: Environment) -> Steps:
        yield environment.timeout(0.05)
        raise ZeroDivisionError("a fault of its own")

    with pytest.raises(ZeroDivisionError, match="a fault of its own"):
        run(SERVED, requests(), PLAIN, kind(), processes=lambda environment, _: [environment.process(broken(environment))])  # fmt: skip


def test_the_example_of_the_documentation_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "model.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    outcome = names["outcome"]
    assert (outcome.submitted, outcome.unfinished) == (20, 0)
    assert (outcome.succeeded, outcome.failed) == (18, 2), "the restart costs the one on its way and the next"
    told = capsys.readouterr().out.splitlines()
    assert len(told) == 20
    assert sum("failed" in line for line in told) == 2
