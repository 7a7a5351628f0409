"""Fair sharing against closed forms: M/G/1 and M/M/c processor sharing, insensitive to the law of the sizes.

With Poisson arrivals at load ρ and one node, a flow of size x takes x/(1-ρ) on average whatever the law of the sizes,
and the mean number under way is ρ/(1-ρ): L. Kleinrock, Queueing Systems, volume 2, section 4.4. With c adapters and no
striping the mean number is that of M/M/c, again whatever the law: J. W. Cohen, The multiple phase service network with
generalized processor sharing, Acta Informatica 12, 1979.
"""

import math

import numpy
import pytest
from scipy.stats import t as student

from bufferlab.sim.clock import Clock
from bufferlab.sim.network.adapters import Network
from bufferlab.sim.network.link import LinkProfile
from bufferlab.sim.streams import stream

MEAN_BYTES = 1e9  # large, so that rounding sizes to whole bytes changes nothing


def profile(adapters: int = 1) -> LinkProfile:
    """All adapters together move one mean size in a second."""
    return LinkProfile(
        name="theory",
        bandwidth_Bps=MEAN_BYTES / adapters,
        latency_s=0.0,
        per_segment_s=0.0,
        control_latency_s=0.0,
        copy_bandwidth_Bps=math.inf,
        adapters=adapters,
        shared_by="rank",
    )


def draw_sizes(law: str, draws: numpy.random.Generator, number: int) -> numpy.ndarray:
    """Sizes with mean 1. The hyperexponential has a squared coefficient of variation of 4, with balanced means."""
    if law == "deterministic":
        return numpy.ones(number)
    if law == "exponential":
        return draws.exponential(1.0, number)
    likely = 0.5 * (1 + math.sqrt(3 / 5))
    means = numpy.where(draws.random(number) < likely, 1 / (2 * likely), 1 / (2 * (1 - likely)))
    return draws.exponential(means)


class Replication:
    """``flows`` Poisson arrivals at one node; what is seen begins with number ``warm``."""

    def __init__(self, law: str, load: float, seed: int, *, flows: int, warm: int, adapters: int = 1) -> None:
        draws = stream(seed, 0, "network theory", f"{law} {load}")
        self.sizes = draw_sizes(law, draws, flows)
        self.arrivals = numpy.cumsum(draws.exponential(1 / load, flows))
        self.taken = numpy.zeros(flows)
        self.seen = slice(warm, flows)
        self.found = numpy.zeros(flows)  # how many an arrival finds
        self.clock = Clock()
        self.network = Network(self.clock, profile(adapters))
        self.under_way = 0
        self.clock.call_at(self.arrivals[0], self._arrive, 0)
        self.clock.run_while_busy()

    def _arrive(self, number: int) -> None:
        self.found[number] = self.under_way
        self.under_way += 1
        self.network.start("a", "z", round(self.sizes[number] * MEAN_BYTES), 1, self._leave, number)
        if number + 1 < len(self.sizes):
            self.clock.call_at(self.arrivals[number + 1], self._arrive, number + 1)

    def _leave(self, number: int) -> None:
        self.under_way -= 1
        self.taken[number] = self.clock.now - self.arrivals[number]


def check(values: list[float], expected: float, most: float) -> None:
    """``expected`` lies in the 99 % t interval of independent replications, and that is no wider than ±``most``."""
    mean = float(numpy.mean(values))
    half = float(student.ppf(0.995, len(values) - 1) * numpy.std(values, ddof=1) / math.sqrt(len(values)))
    assert half <= most * expected, f"{mean} ± {half} is too wide to say anything"
    assert abs(mean - expected) <= half, f"{mean} ± {half}, expected {expected}"


LAWS = ("exponential", "deterministic", "hyperexponential")


def check_processor_sharing(law: str, load: float, flows: int, replications: int, most: float) -> None:
    runs = [Replication(law, load, seed, flows=flows, warm=flows // 6) for seed in range(replications)]
    # Arrivals see time averages (Wolff's PASTA), so what they find has the law of the number under way.
    check([float(run.found[run.seen].mean()) for run in runs], load / (1 - load), most)
    # Conditional on its size: the same slowdown for short and for long flows.
    for shortest, longest in ((0.0, 0.5), (0.5, 1.5), (1.5, math.inf)):
        slowdowns = []
        for run in runs:
            sizes, taken = run.sizes[run.seen], run.taken[run.seen]
            chosen = (sizes >= shortest) & (sizes < longest)
            if chosen.any():
                slowdowns.append(float(taken[chosen].sum() / sizes[chosen].sum()))
        assert slowdowns or law == "deterministic"
        if slowdowns:
            check(slowdowns, 1 / (1 - load), most)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("load", "flows", "most"), [(0.5, 2500, 0.12), (0.8, 4000, 0.3)])
def test_one_node_is_processor_sharing_and_insensitive(law: str, load: float, flows: int, most: float) -> None:
    check_processor_sharing(law, load, flows=flows, replications=16, most=most)


@pytest.mark.slow
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("load", "most"), [(0.8, 0.12), (0.9, 0.25)])
def test_one_node_is_processor_sharing_closely(law: str, load: float, most: float) -> None:
    check_processor_sharing(law, load, flows=12_000, replications=20, most=most)


def mean_number_in_mmc(load: float, servers: int) -> float:
    """Erlang C: mean number in M/M/c at utilisation ``load``, by the recursion of Erlang B."""
    offered = load * servers
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    waits = blocked / (1 - load * (1 - blocked))
    return offered + waits * load / (1 - load)


@pytest.mark.parametrize("law", LAWS)
def test_unstriped_flows_on_four_adapters_are_mmc_and_insensitive(law: str) -> None:
    runs = [Replication(law, 0.7, seed, flows=1200, warm=200, adapters=4) for seed in range(10)]
    check([float(run.found[run.seen].mean()) for run in runs], mean_number_in_mmc(0.7, 4), 0.15)
