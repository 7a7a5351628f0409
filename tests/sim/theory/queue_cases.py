"""The closed forms that the simulator is held to: what plays which part, and how the simulated value comes about.

Three kinds, by what the simulated value is.

* *direct*: the mean over independent replications of the whole simulator.
* *by recursion*: the simulator does, request by request, what the textbook's recursion does, and the recursion's mean
  over millions of customers is the value. That is how a load of 0.95 is reached, where a narrow interval takes ten
  million customers.
* *exact*: no chance is involved, and the two values are equal up to rounding.

Run ``tools/verification_table.py`` after a change here: it writes docs/verification.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import NamedTuple

import msgspec
import numpy
import queue_drivers as drivers
import queue_formulas as formulas
from queue_drivers import SECOND_MOMENTS, Times, draw, draws_of, poisson, requests_of, run, scenario
from queue_estimates import Estimate, controlled, estimate
from queue_recursions import one_server, some_servers

from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario, ServiceTimes
from bufferlab.protocol.faults import Slow
from bufferlab.protocol.recording import Event
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.faults import FaultPlan, PlannedFaults
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.observe import observe

ENCODED = (Side.ENCODE, Event.ENCODED)
WRITTEN = (Side.ENCODE, Event.CHUNK_DONE)
STARTED = (Side.ENCODE, Event.ENCODE_STARTED)
ALLOCATED = (Side.LANGUAGE, Event.ALLOCATED)
OFFERED = (Side.LANGUAGE, Event.OFFERED)
DELIVERED = (Side.LANGUAGE, Event.DELIVERED)
RELEASED = (Side.LANGUAGE, Event.RELEASED)


ROUNDING = 1e-9
"""Times are sums of up to thousands of others, each rounded to a part in 1e16."""


class Result(NamedTuple):
    """``value`` ± ``half`` against ``theory``; ``half`` is 0 where nothing is left to chance.

    ``simulated``: requests that went through the simulator. ``customers``: of the recursion, and ``difference``: by how
    much a request's time in the simulator differs from it at most, relative to the length of the run.
    """

    theory: float
    value: float
    half: float
    replications: int
    simulated: int
    customers: int = 0
    difference: float = 0.0


@dataclass(frozen=True)
class Case:
    """One closed form. ``precision``: half the interval must be at most this part of the theory's value."""

    id: str
    title: str
    formula: str
    source: str
    parts: str
    load: str
    kind: str
    find: Callable[[], Result]
    precision: float
    slow: bool = False


CASES: list[Case] = []


@cache
def result_of(id_: str) -> Result:
    """The result of a case, found once per process."""
    (case,) = [case for case in CASES if case.id == id_]
    return case.find()


def case(
    id_: str,
    title: str,
    *,
    formula: str,
    source: str,
    parts: str,
    load: str,
    kind: str = "direct",
    precision: float = 0.05,
    slow: bool = False,
) -> Callable[[Callable[[], Result]], Callable[[], Result]]:
    """Enter a function into ``CASES``."""

    def enter(find: Callable[[], Result]) -> Callable[[], Result]:
        CASES.append(Case(id_, title, formula, source, parts, load, kind, find, precision, slow))
        return find

    return enter


def shortcomings(one: Case, result: Result) -> list[str]:
    """Why a result does not support its closed form, one sentence for each reason; empty when it does."""
    found = []
    if result.half > one.precision * result.theory:
        found.append(f"{result.value} ± {result.half} is too wide: ± {one.precision:.0%} of {result.theory} is allowed")
    if abs(result.value - result.theory) > max(result.half, ROUNDING * result.theory):
        found.append(f"{result.value} ± {result.half} misses {result.theory}")
    if result.difference > ROUNDING:
        found.append(f"a request is off its recursion by {result.difference} of the run")
    return found


def row(one: Case, result: Result) -> str:
    """The line of a case in docs/verification.md."""
    simulated = f"{result.value:.4g} ± {result.half:.2g}" if result.half else f"{result.value:.6g}"
    cells = [
        one.title,
        one.formula,
        one.source,
        one.parts,
        one.load,
        f"{result.theory:.6g}" if one.kind == "exact" else f"{result.theory:.4g}",
        simulated,
        f"{result.simulated:,}",
        f"{result.customers:,}" if result.customers else "–",
    ]
    return f"| {' | '.join(cells)} |"


# --- by recursion --------------------------------------------------------------------------------------------------

Simulated = Callable[[Times, Times, Times], tuple[Times, Times]]
"""(arrivals, services, other services) of some requests to (when they left the simulator, when the recursion says)."""

SHORT = 3000


def by_recursion(
    id_: str,
    theory: float,
    simulated: Simulated,
    sojourns: Callable[[Times, Times, Times], Times],
    *,
    law: str = "exponential",
    rate: float,
    customers: int = 500_000,
    replications: int = 24,
    warm: int = 20_000,
    value: Callable[[Times], float] = lambda sojourns_s: float(sojourns_s.mean()),
) -> Result:
    """Both steps: the simulator against the recursion, and the recursion against the theory.

    ``sojourns`` is the recursion over replications × customers.
    """
    draws = draws_of(id_, 0)
    arrivals = poisson(draws, rate, SHORT)
    found, expected = simulated(arrivals, draw(law, draws, SHORT), draw(law, draws, SHORT))
    difference = float(numpy.abs(found - expected).max() / expected.max())
    values, controls = [], []
    together = 1 if customers > 100_000 else replications
    for first in range(0, replications, together):
        draws = draws_of(id_, 1 + first)
        shape = (together, customers + warm)
        arrivals, services, others = poisson(draws, rate, shape), draw(law, draws, shape), draw(law, draws, shape)
        taken = sojourns(arrivals, services, others)[:, warm:]
        values += [value(one) for one in taken]
        lasted = arrivals[:, -1] - arrivals[:, warm]
        # What the two laws have for a mean is known: 1 and 1 / rate.
        known = [lasted / (customers - 1) - 1 / rate, services[:, warm:].mean(axis=1) - 1]
        if law == "exponential":
            known.append(others[:, warm:].mean(axis=1) - 1)
        controls += numpy.column_stack(known).tolist()
    if law == "deterministic":
        controls = [row[:1] for row in controls]
    got = controlled(values, controls)
    return Result(theory, got.mean, got.half, replications, SHORT, replications * customers, difference)


def encoder_alone(arrivals: Times, services: Times, others: Times) -> tuple[Times, Times]:
    """Through encoder passes of one request each."""
    _, (left,) = run(drivers.ENCODER, requests_of(arrivals, encode=services), len(arrivals), ENCODED)
    return left, one_server(arrivals, services)


def prefill_alone(arrivals: Times, services: Times, others: Times) -> tuple[Times, Times]:
    """Through prefill passes of one request each."""
    _, (left,) = run(drivers.PREFILL, requests_of(arrivals, prefill=services), len(arrivals), RELEASED)
    return left, one_server(arrivals, services)


def in_one_queue(arrivals: Times, services: Times, others: Times) -> Times:
    """Sojourns in one queue, first come, first served."""
    return one_server(arrivals, services) - arrivals


@case(
    "mm1-encoder",
    "M/M/1",
    formula="1/(μ − λ)",
    source="Kleinrock vol. 1, 3.2",
    parts="encoder passes of one request (`encode_batch = 1`), exponential",
    load="0.95",
    kind="by recursion",
)
def mm1_encoder() -> Result:
    theory = formulas.mm1_sojourn_s(0.95, 1.0)
    return by_recursion("mm1-encoder", theory, encoder_alone, in_one_queue, rate=0.95)


@case(
    "mm1-prefill",
    "M/M/1",
    formula="1/(μ − λ)",
    source="Kleinrock vol. 1, 3.2",
    parts="prefill passes of one request (`prefill_batch_tokens = 1`), exponential",
    load="0.9",
    kind="by recursion",
)
def mm1_prefill() -> Result:
    theory = formulas.mm1_sojourn_s(0.9, 1.0)
    return by_recursion("mm1-prefill", theory, prefill_alone, in_one_queue, rate=0.9, customers=250_000)


@case(
    "mm1-p99",
    "M/M/1, 99th percentile",
    formula="ln 100 / (μ − λ)",
    source="Kleinrock vol. 1, 5.6",
    parts="encoder passes, exponential",
    load="0.8",
    kind="by recursion",
)
def mm1_p99() -> Result:
    return by_recursion(
        "mm1-p99",
        formulas.mm1_sojourn_quantile_s(0.8, 1.0, 0.99),
        encoder_alone,
        in_one_queue,
        rate=0.8,
        value=lambda sojourns_s: float(numpy.quantile(sojourns_s, 0.99)),
    )


@case(
    "mg1-encoder",
    "M/G/1 (Pollaczek–Khinchine)",
    formula="E[S] + λE[S²]/(2(1 − ρ))",
    source="Kleinrock vol. 1, 5.7",
    parts="encoder passes, hyperexponential with a squared coefficient of variation of 4",
    load="0.95",
    kind="by recursion",
)
def mg1_encoder() -> Result:
    theory = formulas.mg1_sojourn_s(0.95, 1.0, SECOND_MOMENTS["hyperexponential"])
    return by_recursion(
        "mg1-encoder", theory, encoder_alone, in_one_queue, law="hyperexponential", rate=0.95, warm=50_000,
        replications=40,
    )  # fmt: skip


def constant_writes(arrivals: Times, services: Times, others: Times) -> tuple[Times, Times]:
    """Through the transfer worker, one token each, which takes 1 s."""
    over = drivers.link(bandwidth_Bps=float(drivers.TOKEN_BYTES + drivers.AUX_BYTES))
    _, (left,) = run(scenario(), requests_of(arrivals), len(arrivals), WRITTEN, over=over)
    return left, one_server(arrivals, services)


@case(
    "md1-transfer",
    "M/D/1",
    formula="E[S] + λE[S]²/(2(1 − ρ))",
    source="Kleinrock vol. 1, 5.7",
    parts="writes of one length by the transfer worker",
    load="0.95",
    kind="by recursion",
)
def md1_transfer() -> Result:
    theory = formulas.mg1_sojourn_s(0.95, 1.0, 1.0)
    return by_recursion("md1-transfer", theory, constant_writes, in_one_queue, law="deterministic", rate=0.95)


SHORT_TOKENS, LONG_TOKENS, LONG_SHARE = 300, 9300, 0.1
"""Lengths of the two kinds of requests in a bimodal mix, and how many are long."""


def bimodal_tokens(uniform: Times) -> list[int]:
    """Lengths from uniform draws."""
    return numpy.where(uniform < LONG_SHARE, LONG_TOKENS, SHORT_TOKENS).tolist()


def bimodal_moments() -> tuple[float, float]:
    """Mean and second moment of a write's bytes, exactly."""
    sizes = [drivers.TOKEN_BYTES * tokens + drivers.AUX_BYTES for tokens in (SHORT_TOKENS, LONG_TOKENS)]
    shares = (1 - LONG_SHARE, LONG_SHARE)
    first, second = (sum(share * size**power for share, size in zip(shares, sizes, strict=True)) for power in (1, 2))
    return first, second


def bimodal_services(uniform: Times) -> Times:
    """Writes of bimodal lengths over a link that moves their mean in a second."""
    mean, _ = bimodal_moments()
    tokens = numpy.where(uniform < LONG_SHARE, LONG_TOKENS, SHORT_TOKENS)
    return (drivers.TOKEN_BYTES * tokens + drivers.AUX_BYTES) / mean


def bimodal_writes(arrivals: Times, services: Times, others: Times) -> tuple[Times, Times]:
    """Through the transfer worker. Services are the exponential draws, whose law makes uniform ones."""
    uniform = -numpy.expm1(-services)
    over = drivers.link(bandwidth_Bps=bimodal_moments()[0])
    requests = requests_of(arrivals, tokens=bimodal_tokens(uniform))
    _, (left,) = run(scenario(), requests, len(arrivals), WRITTEN, over=over)
    return left, one_server(arrivals, bimodal_services(uniform))


@case(
    "mg1-transfer",
    "M/G/1 (Pollaczek–Khinchine)",
    formula="E[S] + λE[S²]/(2(1 − ρ))",
    source="Kleinrock vol. 1, 5.7",
    parts="writes of 300 or, one in ten, 9300 tokens by the transfer worker",
    load="0.9",
    kind="by recursion",
)
def mg1_transfer() -> Result:
    mean, second = bimodal_moments()

    def sojourns(arrivals: Times, services: Times, others: Times) -> Times:
        return one_server(arrivals, bimodal_services(-numpy.expm1(-services))) - arrivals

    theory = formulas.mg1_sojourn_s(0.9, 1.0, second / mean**2)
    return by_recursion("mg1-transfer", theory, bimodal_writes, sojourns, rate=0.9)


def several(servers: int, arrivals: Times, services: Times, others: Times) -> Times:
    """Sojourns with several servers."""
    return some_servers(arrivals, services, servers) - arrivals


def preprocessing(servers: int, arrivals: Times, services: Times, others: Times) -> tuple[Times, Times]:
    """Through the processors of an encode instance."""
    setting = scenario({"preprocess_per_token_s": 1.0, "preprocess_workers": servers})
    _, (left,) = run(setting, requests_of(arrivals, encode=services), len(arrivals), DELIVERED)
    return left, some_servers(arrivals[None], services[None], servers)[0]


@case(
    "mmc-processors",
    "M/M/c (Erlang C), c = 4",
    formula="E[S] + C(c, a) E[S]/(c − a)",
    source="Gross & Harris, 2.3",
    parts="`preprocess_workers` of an encode instance",
    load="0.95",
    kind="by recursion",
)
def mmc_processors() -> Result:
    theory = formulas.mmc_sojourn_s(4, 3.8, 1.0)
    return by_recursion(
        "mmc-processors", theory, partial(preprocessing, 4), partial(several, 4), rate=3.8, customers=12_000,
        warm=6_000, replications=600,
    )  # fmt: skip


def in_slots(servers: int, arrivals: Times, services: Times, others: Times) -> tuple[Times, Times]:
    """Through a pool of slots on the language side, which have a queue of their own."""
    setting = drivers.slots(servers)
    requests = requests_of(arrivals, encode=services, encode_instances=setting.encode_instances)
    _, (left,) = run(setting, requests, len(arrivals), DELIVERED)
    return left, some_servers(arrivals[None], services[None], servers)[0]


@case(
    "mmc-slots",
    "M/M/c (Erlang C), c = 8",
    formula="E[S] + C(c, a) E[S]/(c − a)",
    source="Gross & Harris, 2.3",
    parts="a pool of 8 slots, each held for an exponential time; who finds none waits",
    load="0.9",
    kind="by recursion",
)
def mmc_slots() -> Result:
    theory = formulas.mmc_sojourn_s(8, 7.2, 1.0)
    return by_recursion(
        "mmc-slots", theory, partial(in_slots, 8), partial(several, 8), rate=7.2, customers=16_000, warm=4_000,
        replications=400,
    )  # fmt: skip


FIRST_STAGE = 0.8
"""Mean service of the first of two stages in a row; that of the second is 1."""


def two_stages(arrivals: Times, services: Times, others: Times) -> tuple[Times, Times]:
    """Through encoder passes and then prefill passes. With announced lengths the encoder needs no offer to begin."""
    setting = scenario(
        {"encode_per_image_s": FIRST_STAGE, "prefill_per_token_s": 1.0},
        discipline="exact_announce", encode_batch=1, prefill_batch_tokens=1, release_after_prefill=True,
    )  # fmt: skip
    _, (left,) = run(setting, requests_of(arrivals, encode=services, prefill=others), len(arrivals), RELEASED)
    return left, one_server(one_server(arrivals, FIRST_STAGE * services), others)


@case(
    "tandem",
    "M/M/1 → M/M/1 (Burke, Jackson)",
    formula="1/(μ₁ − λ) + 1/(μ₂ − λ)",
    source="Burke 1956; Kleinrock vol. 1, 4.8",
    parts="encoder passes, then prefill passes, of one request each",
    load="0.72, 0.9",
    kind="by recursion",
)
def tandem() -> Result:
    rate = 0.9
    theory = formulas.mm1_sojourn_s(rate, FIRST_STAGE) + formulas.mm1_sojourn_s(rate, 1.0)

    def sojourns(arrivals: Times, services: Times, others: Times) -> Times:
        return one_server(one_server(arrivals, FIRST_STAGE * services), others) - arrivals

    return by_recursion("tandem", theory, two_stages, sojourns, rate=rate, customers=250_000)


def two_branches(arrivals: Times, services: Times, others: Times) -> tuple[Times, Times]:
    """Two requests at a time, one for each of two encode instances; both must be encoded."""
    setting = msgspec.structs.replace(drivers.ENCODER, encode_instances=2)
    pairs = numpy.repeat(arrivals, 2)
    factors = numpy.column_stack([services, others]).ravel()
    requests = requests_of(pairs, encode=factors, encode_instances=2)
    _, (left,) = run(setting, requests, len(pairs), ENCODED)
    both = numpy.maximum(one_server(arrivals, services), one_server(arrivals, others))
    return left.reshape(-1, 2).max(axis=1), both


@case(
    "fork-join",
    "fork–join of two M/M/1",
    formula="(12 − ρ)/8 · 1/(μ − λ)",
    source="Flatto & Hahn 1984; Nelson & Tantawi 1988",
    parts="pairs of requests, one for each of two encode instances; both must be encoded",
    load="0.95",
    kind="by recursion",
)
def fork_join() -> Result:
    def sojourns(arrivals: Times, services: Times, others: Times) -> Times:
        return numpy.maximum(one_server(arrivals, services), one_server(arrivals, others)) - arrivals

    theory = formulas.fork_join_sojourn_s(0.95, 1.0)
    return by_recursion("fork-join", theory, two_branches, sojourns, rate=0.95)


# --- direct --------------------------------------------------------------------------------------------------------


def direct_queue(
    id_: str,
    theory: float,
    leave: Callable[[Times, Times], Times],
    *,
    law: str,
    rate: float,
    requests: int,
    replications: int,
    warm: int,
) -> Result:
    """Mean sojourn over replications of the simulator alone; ``leave`` runs one of them."""
    values, controls = [], []
    for replication in range(replications):
        draws = draws_of(id_, replication)
        arrivals, services = poisson(draws, rate, requests), draw(law, draws, requests)
        values.append(float((leave(arrivals, services) - arrivals)[warm:].mean()))
        known = [mean_gap(arrivals[warm:]) - 1 / rate]
        if law != "deterministic":
            known.append(services[warm:].mean() - 1)
        controls.append(known)
    return of_estimate(theory, controlled(values, controls), requests)


def mean_gap(arrivals: Times) -> float:
    """Mean time between arrivals."""
    return float((arrivals[-1] - arrivals[0]) / (len(arrivals) - 1))


def of_estimate(theory: float, got: Estimate, requests: int) -> Result:
    """The result of replications with ``requests`` each."""
    return Result(theory, got.mean, got.half, got.replications, got.replications * requests)


def mm1_directly(load: float, requests: int, warm: int) -> Result:
    """M/M/1 by the simulator alone."""

    def leave(arrivals: Times, services: Times) -> Times:
        return encoder_alone(arrivals, services, services)[0]

    return direct_queue(
        f"mm1 {load}", formulas.mm1_sojourn_s(load, 1.0), leave, law="exponential", rate=load, requests=requests,
        replications=30, warm=warm,
    )  # fmt: skip


for _load, _requests, _warm, _slow in ((0.5, 1200, 100, False), (0.75, 7000, 500, True)):
    case(
        f"mm1-direct-{_load}",
        "M/M/1",
        formula="1/(μ − λ)",
        source="Kleinrock vol. 1, 3.2",
        parts="encoder passes of one request, exponential",
        load=f"{_load}",
        slow=_slow,
    )(partial(mm1_directly, _load, _requests, _warm))


@case(
    "md1-direct",
    "M/D/1",
    formula="E[S] + λE[S]²/(2(1 − ρ))",
    source="Kleinrock vol. 1, 5.7",
    parts="writes of one length by the transfer worker",
    load="0.7",
)
def md1_direct() -> Result:
    def leave(arrivals: Times, services: Times) -> Times:
        return constant_writes(arrivals, services, services)[0]

    theory = formulas.mg1_sojourn_s(0.7, 1.0, 1.0)
    return direct_queue(
        "md1-direct", theory, leave, law="deterministic", rate=0.7, requests=1200, replications=30, warm=100
    )


def vacation(arrivals: Times, services: Times, period_s: float) -> Times:
    """When encoder passes end in a loop with an iteration every ``period_s``."""
    setting = msgspec.structs.replace(
        drivers.ENCODER, services=msgspec.structs.replace(drivers.ENCODER.services, encode_poll_interval_s=period_s)
    )
    _, (left,) = run(setting, requests_of(arrivals, encode=services), len(arrivals), ENCODED)
    return left


PERIOD_S = 0.5


@case(
    "vacations",
    "M/G/1 with vacations (a loop that polls)",
    formula="E[S] + λE[R²]/(2(1 − λE[R])) + τ/2, R = max(S, τ)",
    source="Fuhrmann & Cooper 1985",
    parts="encoder passes of one request in a loop with an iteration every τ = 0.5 s, exponential passes of mean 1 s",
    load="0.55",
)
def vacations() -> Result:
    # R = max(S, τ) for S exponential of mean 1: E[R] = τ + e^-τ, E[R²] = τ² + (2 + 2τ) e^-τ.
    beyond = math.exp(-PERIOD_S)
    rate = 0.5
    theory = formulas.vacation_sojourn_s(
        rate, 1.0, PERIOD_S + beyond, PERIOD_S**2 + (2 + 2 * PERIOD_S) * beyond, PERIOD_S
    )
    leave = partial(vacation, period_s=PERIOD_S)
    return direct_queue(
        "vacations", theory, leave, law="exponential", rate=rate, requests=1200, replications=30, warm=100
    )


@case(
    "polling",
    "polling delay",
    formula="τ/2",
    source="mean residual life, Kleinrock vol. 1, 5.2",
    parts="arrival to offer, in a language loop with an iteration every τ = 1 ms",
    load="–",
    precision=0.02,
)
def polling() -> Result:
    period_s, number = 0.001, 1000
    setting = scenario({"language_poll_interval_s": period_s})
    values = []
    for replication in range(20):
        arrivals = poisson(draws_of("polling", replication), 100.0, number)
        _, (offered,) = run(setting, requests_of(arrivals), number, OFFERED)
        values.append(float((offered - arrivals).mean()))
    return of_estimate(period_s / 2, estimate(values), number)


@case(
    "bulk",
    "bulk service M/D[1,∞]/1",
    formula="d + d/2 · λd/(λd + e^(−λd))",
    source="Bailey 1954; Neuts 1967",
    parts="encoder passes of constant length d = 1 s that take all who wait (`encode_batch` unset)",
    load="λd = 0.8",
    precision=0.02,
)
def bulk() -> Result:
    rate, number, warm = 0.8, 1000, 50
    setting = scenario({"encode_base_s": 1.0})
    values, controls = [], []
    for replication in range(12):
        arrivals = poisson(draws_of("bulk", replication), rate, number)
        _, (left,) = run(setting, requests_of(arrivals), number, ENCODED)
        values.append(float((left - arrivals)[warm:].mean()))
        controls.append([mean_gap(arrivals[warm:]) - 1 / rate])
    return of_estimate(formulas.bulk_sojourn_s(rate, 1.0), controlled(values, controls), number)


# --- shared links --------------------------------------------------------------------------------------------------


def sharing(law: str, load: float, requests: int, replications: int, edge: int) -> Result:
    """Writes of many encode instances into the one adapter of a language rank.

    The first and the last ``edge`` requests do not count: those met nobody yet, and these are not followed by any, which
    matters here as nobody has a place in a queue. The work that is left in a single server does not depend on who is
    served, so what arrivals find of it has the mean of M/G/1, known by Pollaczek and Khinchine: a control that goes
    along with the number of writes under way.
    """
    mean_tokens, instances = 100_000, 512
    mean_bytes = float(drivers.TOKEN_BYTES * mean_tokens + drivers.AUX_BYTES)
    setting = scenario(encode_instances=instances, encode_blocks=64)
    over = drivers.link(bandwidth_Bps=mean_bytes, shared_by="rank")
    seen = slice(edge, -edge)
    values, controls = [], []
    for replication in range(replications):
        draws = draws_of(f"sharing {law} {load}", replication)
        arrivals, sizes = poisson(draws, load, requests), draw(law, draws, requests)
        tokens = numpy.maximum(numpy.rint(sizes * mean_tokens), 1).astype(int)
        services = (drivers.TOKEN_BYTES * tokens + drivers.AUX_BYTES) / mean_bytes
        _, (left,) = run(
            setting, requests_of(arrivals, tokens=tokens.tolist(), encode_instances=instances), requests, WRITTEN,
            over=over,
        )  # fmt: skip
        work = one_server(arrivals, services) - arrivals - services
        values.append(float(((left - arrivals) / services)[seen].mean()))
        known = [
            mean_gap(arrivals[seen]) - 1 / load,
            float(work[seen].mean()) - formulas.mg1_wait_s(load, 1.0, SECOND_MOMENTS[law]),
        ]
        if law != "deterministic":
            known.append(float(services[seen].mean()) - 1)
        controls.append(known)
    return of_estimate(formulas.processor_sharing_slowdown(load), controlled(values, controls), requests)


def enter_sharing(law: str, load: float, requests: int, replications: int, edge: int, *, slow: bool) -> None:
    """Enter processor sharing at one load for one law of the sizes; the theory is the same for all."""
    case(
        f"ps-{law}-{load}",
        f"M/G/1 processor sharing, {law}: slowdown",
        formula="1/(1 − ρ)",
        source="Kleinrock vol. 2, 4.4",
        parts='writes of 512 encode instances into one adapter (`shared_by = "rank"`)',
        load=f"{load}",
        slow=slow,
    )(partial(sharing, law, load, requests, replications, edge))


for _law, _replications in (("exponential", 16), ("deterministic", 10), ("hyperexponential", 26)):
    enter_sharing(_law, 0.6, 1000, _replications, 80, slow=False)
for _law, _load, _replications in (
    ("exponential", 0.9, 16),
    ("deterministic", 0.9, 10),
    ("hyperexponential", 0.85, 40),
):
    enter_sharing(_law, _load, 6000, _replications, 1000, slow=True)


# --- pools ---------------------------------------------------------------------------------------------------------


def losses(law: str) -> Result:
    """Share of requests that find no slot."""
    servers, offered, number, warm = 4, 5.0, 1000, 50
    replications = 27 if law == "hyperexponential" else 20
    setting = drivers.slots(servers, 256)
    values, controls = [], []
    for replication in range(replications):
        draws = draws_of(f"losses {law}", replication)
        arrivals, holds = poisson(draws, offered, number), draw(law, draws, number)
        turnstile = drivers.Turnstile()
        requests = requests_of(arrivals, encode=holds, encode_instances=setting.encode_instances)
        outcome, (left,) = run(setting, requests, number, DELIVERED, faults=turnstile)
        if outcome.failed != len(turnstile.sent_away) or numpy.isnan(left).sum() != outcome.failed:
            raise AssertionError(f"{outcome.failed} failed, {len(turnstile.sent_away)} were sent away")
        values.append(float(numpy.isnan(left[warm:]).mean()))
        known = [mean_gap(arrivals[warm:]) - 1 / offered]
        if law != "deterministic":
            known.append(float(holds[warm:].mean()) - 1)
        controls.append(known)
    return of_estimate(formulas.erlang_b(servers, offered), controlled(values, controls), number)


for _law in drivers.LAWS:
    case(
        f"erlang-b-{_law}",
        f"M/G/c/c (Erlang B), c = 4, {_law}",
        formula="(a^c/c!) / Σ a^k/k!",
        source="Erlang 1917; Sevast’yanov 1957",
        parts="a pool of 4 slots; who finds none goes away",
        load="1.25 offered",
    )(partial(losses, _law))


PLACES, PLACES_LOAD, PLACES_REQUESTS = 5, 0.95, 1500


@cache
def with_places() -> tuple[list[float], list[float], list[list[float]]]:
    """A pool of five slots in front of one encoder: loss, sojourn of whom is let in, and controls, by replication."""
    warm, number = 100, PLACES_REQUESTS
    setting = msgspec.structs.replace(drivers.ENCODER, discipline="slot", language_blocks=PLACES)
    lost, sojourns, controls = [], [], []
    for replication in range(24):
        draws = draws_of("places", replication)
        arrivals, services = poisson(draws, PLACES_LOAD, number), draw("exponential", draws, number)
        requests = requests_of(arrivals, encode=services)
        _, (left,) = run(setting, requests, number, DELIVERED, faults=drivers.Turnstile())
        taken = (left - arrivals)[warm:]
        lost.append(float(numpy.isnan(taken).mean()))
        sojourns.append(float(numpy.nanmean(taken)))
        controls.append([mean_gap(arrivals[warm:]) - 1 / PLACES_LOAD, float(services[warm:].mean()) - 1])
    return lost, sojourns, controls


@case(
    "mm1k-loss",
    "M/M/1/K, K = 5: loss",
    formula="ρ^K (1 − ρ)/(1 − ρ^(K+1))",
    source="Gross & Harris, 2.4",
    parts="a pool of 5 slots before one encoder; who finds none goes away",
    load="0.95",
    precision=0.08,
)
def mm1k_loss() -> Result:
    lost, _, controls = with_places()
    return of_estimate(formulas.mm1k_loss(PLACES, PLACES_LOAD), controlled(lost, controls), PLACES_REQUESTS)


@case(
    "mm1k-sojourn",
    "M/M/1/K, K = 5: sojourn",
    formula="E[N]/(λ(1 − loss))",
    source="Gross & Harris, 2.4",
    parts="a pool of 5 slots before one encoder; who finds none goes away",
    load="0.95",
)
def mm1k_sojourn() -> Result:
    _, sojourns, controls = with_places()
    theory = formulas.mm1k_sojourn_s(PLACES, PLACES_LOAD, 1.0)
    return of_estimate(theory, controlled(sojourns, controls), PLACES_REQUESTS)


@case(
    "mg-infinity",
    "M/G/∞ (blocks held)",
    formula="λ E[blocks · hold]",
    source="Little 1961, Brumelle 1971 (H = λG); Kleinrock vol. 1, 3.4",
    parts="blocks held in a pool that never fills; two in three requests hold one for 1 s, the others three for 3 s",
    load="–",
)
def mg_infinity() -> Result:
    # A third of the requests is long. Their passes are as long as they are, all at once in instances of their own.
    block, rate, number, warm = 64, 1.2, 800, 100
    setting = scenario(
        {"encode_per_token_s": 1.0 / block},
        discipline="exact_announce", block_tokens=block, encode_instances=256, encode_blocks=256,
    )  # fmt: skip
    kinds = ((2 / 3, 1, 1.0), (1 / 3, 3, 3.0))
    mean = sum(share * blocks * hold for share, blocks, hold in kinds)
    values, controls = [], []
    for replication in range(12):
        draws = draws_of("infinity", replication)
        arrivals, long = poisson(draws, rate, number), draws.random(number) < 1 / 3
        blocks = numpy.where(long, 3, 1)
        requests = requests_of(arrivals, tokens=(blocks * block).tolist(), encode_instances=256)
        _, (taken, given_back) = run(setting, requests, number, ALLOCATED, RELEASED)
        begin, end = arrivals[warm], arrivals[-1]
        held = (blocks * (numpy.clip(given_back, begin, end) - numpy.clip(taken, begin, end))).sum()
        values.append(float(held / (end - begin)))
        controls.append([mean_gap(arrivals[warm:]) - 1 / rate, float(long[warm:].mean()) - 1 / 3])
    return of_estimate(rate * mean, controlled(values, controls), number)


@case(
    "head-of-line",
    "throughput with head-of-line blocking",
    formula="2/(2 − p²) per mean hold",
    source="Brill & Green 1984; Rumyantsev & Morozov 2017",
    parts="a full queue before a pool of 2 blocks; a share p = 0.7 wants one block, the others two (`oracle`)",
    load="saturated",
    precision=0.02,
)
def head_of_line() -> Result:
    small, number, instances, trim = 0.7, 1200, 512, 20
    setting = scenario(
        {"encode_per_image_s": 1.0},
        sizing="oracle", sizing_options={}, block_tokens=8, language_blocks=2, encode_instances=instances,
        encode_blocks=64,
    )  # fmt: skip
    values, controls = [], []
    for replication in range(16):
        draws = draws_of("head of line", replication)
        holds = draw("exponential", draws, number)
        large = draws.random(number) >= small
        requests = requests_of(
            numpy.zeros(number), encode=holds, tokens=numpy.where(large, 16, 8).tolist(), encode_instances=instances
        )
        _, (left,) = run(setting, requests, number, DELIVERED)
        ends = numpy.sort(left)[trim : number - trim]
        values.append(float((len(ends) - 1) / (ends[-1] - ends[0])))
        controls.append([float(holds.mean()) - 1, float(large.mean()) - (1 - small)])
    return of_estimate(formulas.two_place_throughput(small, 1.0), controlled(values, controls), number)


# --- ranks, sizing -------------------------------------------------------------------------------------------------


@case(
    "slowest-of-ranks",
    "largest of R exponentials, R = 8",
    formula="1 + H_R",
    source="Rényi 1953; Ross, Introduction to Probability Models, 5.2",
    parts="one request on 8 encode and 8 language ranks; each write takes 1 + an exponential (`Slow` ranks)",
    load="–",
)
def slowest_of_ranks() -> Result:
    ranks, number = 8, 800
    setting = scenario(encode_tp=ranks, language_tp=ranks, encode_blocks=4, language_blocks=4)
    over = drivers.link(bandwidth_Bps=float(drivers.TOKEN_BYTES + drivers.AUX_BYTES))
    times = []
    for replication in range(number):
        factors = 1 + draws_of("ranks", replication).exponential(1.0, ranks)
        slow = tuple(Slow(RankId(Side.ENCODE, 0, rank), factor) for rank, factor in enumerate(factors.tolist()))
        _, (delivered,) = run(
            setting, [Request(0, 0.0, 1)], 1, DELIVERED, over=over, faults=PlannedFaults(FaultPlan(incidents=slow))
        )
        times.append(float(delivered[0]))
    return of_estimate(1 + formulas.harmonic(ranks), estimate(times), 1)


MISSING_S, SUPERFLUOUS_S = 3.0, 1.0
"""What a missing and a superfluous block cost in the newsvendor's case."""
MEAN_BLOCKS = 6.0


def newsvendor_costs(orders: list[int], number: int, replications: int) -> tuple[Times, list[float]]:
    """Mean cost of a request by replication and first allocation, and how far the replication's mean length is off.

    A resume brings one block and takes two control messages of half a missing block's cost; nothing else takes time.
    So the delay that the simulator finds is what missing blocks cost.
    """
    block = 16
    over = drivers.link(control_latency_s=MISSING_S / 2)
    costs = numpy.empty((replications, len(orders)))
    off = []
    for replication in range(replications):
        blocks = draws_of("newsvendor", replication).geometric(1 / MEAN_BLOCKS, number)
        off.append(float(blocks.mean()) - MEAN_BLOCKS)
        for column, order in enumerate(orders):
            setting = scenario(
                block_tokens=block, resume_tokens=block, sizing_options={"tokens": order * block}, encode_blocks=1024,
                language_blocks=1024, discipline="alloc_then_free",
            )  # fmt: skip
            arrivals = numpy.arange(number) * 1000.0
            requests = requests_of(arrivals, tokens=(blocks * block).tolist())
            _, (delivered,) = run(setting, requests, number, DELIVERED, over=over)
            # An offer and a status are what every request pays.
            delays = delivered - arrivals - MISSING_S
            costs[replication, column] = (delays + SUPERFLUOUS_S * numpy.maximum(order - blocks, 0)).mean()
    return costs, off


def newsvendor_order() -> int:
    """The closed form's answer."""
    return formulas.geometric_fractile(MEAN_BLOCKS, MISSING_S / (MISSING_S + SUPERFLUOUS_S))


@case(
    "newsvendor",
    "newsvendor: cost of the best order",
    formula="c_u E[(D − S)⁺] + c_o E[(S − D)⁺] at the smallest S with P(D ≤ S) ≥ c_u/(c_u + c_o)",
    source="Arrow, Harris, Marschak 1951",
    parts="first allocations of S blocks for geometric lengths D; a resume of one block costs 3 s, an idle block 1 s",
    load="–",
)
def newsvendor() -> Result:
    order, number = newsvendor_order(), 200
    costs, off = newsvendor_costs([order], number, 40)
    theory = formulas.newsvendor_cost(MEAN_BLOCKS, order, MISSING_S, SUPERFLUOUS_S)
    return of_estimate(theory, controlled(costs[:, 0].tolist(), off), number)


# --- exact ---------------------------------------------------------------------------------------------------------


def exactly(theory: float, value: float, requests: int) -> Result:
    """Two values that chance has no part in."""
    return Result(theory, value, 0.0, 1, requests)


@case(
    "chunks",
    "a transfer in n = 7 chunks",
    formula="n (a + 2c) + m/B",
    source="arithmetic",
    parts="one request; write latency a, control latency c, m bytes over a link of B (`resume_tokens`)",
    load="–",
    kind="exact",
)
def chunks() -> Result:
    found = chunked(tokens=100, block=16, bandwidth=1000.0, latency_s=0.01, control_s=0.003)
    bytes_ = 100 * drivers.TOKEN_BYTES + drivers.AUX_BYTES
    return exactly(formulas.chunked_transfer_s(bytes_, 7, 1000.0, 0.01, 0.003), found, 1)


def chunked(*, tokens: int, block: int, bandwidth: float, latency_s: float, control_s: float) -> float:
    """When a request is delivered that comes in chunks of one block."""
    setting = scenario(
        block_tokens=block, resume_tokens=block, sizing_options={"tokens": block}, encode_blocks=1024,
        language_blocks=1024,
    )  # fmt: skip
    over = drivers.link(bandwidth_Bps=bandwidth, latency_s=latency_s, control_latency_s=control_s)
    return float(run(setting, [Request(0, 0.0, tokens)], 1, DELIVERED, over=over)[1][0][0])


STAGES_S = (0.5, 1.25, 0.75, 1.0)


def flow_shop(jobs: int, stages_s: tuple[float, float, float, float]) -> float:
    """When the last of some equal requests has been prepared, encoded, written and prefilled.

    With announced lengths an offer is made when an encoder pass begins, or after the prefill that is under way then. So
    stages are independent if a prefill takes no longer than an encoder pass, or if writes take no time.
    """
    prepare_s, encode_s, write_s, prefill_s = stages_s
    setting = scenario(
        {"preprocess_per_token_s": prepare_s, "encode_per_image_s": encode_s, "prefill_per_token_s": prefill_s},
        discipline="exact_announce", encode_batch=1, prefill_batch_tokens=1, release_after_prefill=True,
    )  # fmt: skip
    bytes_ = drivers.TOKEN_BYTES + drivers.AUX_BYTES
    over = drivers.link(bandwidth_Bps=bytes_ / write_s if write_s else math.inf)
    _, (left,) = run(setting, requests_of(numpy.zeros(jobs)), jobs, RELEASED, over=over)
    return float(left.max())


@case(
    "flow-shop",
    "pipeline of four stages, 200 equal requests",
    formula="Σ p + (n − 1) max p",
    source="Johnson 1954",
    parts="preparing, encoding, writing and prefill; the slowest stage sets the throughput",
    load="saturated",
    kind="exact",
)
def pipeline() -> Result:
    return exactly(formulas.flow_shop_s(STAGES_S, 200), flow_shop(200, STAGES_S), 200)


@case(
    "little",
    "Little’s law on a finite run",
    formula="∫ N(t) dt = Σ T",
    source="Little 1961; Stidham 1974",
    parts="rooms on two language ranks, resumes and copies included: the number there by count, the times there by name",
    load="–",
    kind="exact",
)
def little() -> Result:
    setting = Scenario(
        block_tokens=16, hidden=64, encode_tp=2, language_tp=2, encode_blocks=64, language_blocks=24,
        sizing_options={"tokens": 64}, services=ServiceTimes(encode_base_s=0.002, prefill_per_token_s=2e-5),
    )  # fmt: skip
    draws = draws_of("little", 0)
    arrivals, tokens = poisson(draws, 250.0, 300), draws.integers(1, 257, 300)
    stations = observe(setting, requests_of(arrivals, tokens=tokens.tolist()), load_profile("cx7-400g")).stations
    flow = stations["language rank"]
    return exactly(flow.sojourn_s, flow.number_s, 300)
