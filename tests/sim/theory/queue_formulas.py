"""Closed forms of queueing theory, written down once: for the tests of the simulator and for docs/verification.md.

Times are seconds, rates are per second. ``load`` is the utilisation of a server, ``offered`` that of a whole station in
servers (erlangs). A *sojourn* is waiting and service. What cannot be stable raises ValueError.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def _below_one(load: float) -> float:
    if not 0 <= load < 1:
        raise ValueError(f"the load is {load}, a queue without bound needs it to be at least 0 and below 1")
    return load


def mg1_wait_s(rate: float, mean_s: float, second_moment_s2: float) -> float:
    """Mean wait in M/G/1: λ E[S²] / (2 (1 − ρ)), Pollaczek 1930, Khinchine 1932; Kleinrock vol. 1, section 5.7."""
    return rate * second_moment_s2 / (2 * (1 - _below_one(rate * mean_s)))


def mg1_sojourn_s(rate: float, mean_s: float, second_moment_s2: float) -> float:
    """Mean sojourn in M/G/1, first come, first served."""
    return mean_s + mg1_wait_s(rate, mean_s, second_moment_s2)


def mm1_sojourn_s(rate: float, mean_s: float) -> float:
    """Mean sojourn in M/M/1: 1 / (μ − λ); Kleinrock, Queueing Systems, vol. 1, section 3.2."""
    return mean_s / (1 - _below_one(rate * mean_s))


def mm1_sojourn_quantile_s(rate: float, mean_s: float, probability: float) -> float:
    """What a sojourn in M/M/1 stays below with this probability: sojourns are exponential; Kleinrock vol. 1, 5.6."""
    return -math.log1p(-probability) * mm1_sojourn_s(rate, mean_s)


def erlang_b(servers: int, offered: float) -> float:
    """Share that is lost in M/G/c/c: (a^c / c!) / Σ a^k / k!, Erlang 1917, by the recursion over servers.

    It depends on the holding time through its mean only (Sevast'yanov 1957).
    """
    blocked = 1.0
    for number in range(1, servers + 1):
        blocked = offered * blocked / (number + offered * blocked)
    return blocked


def erlang_c(servers: int, offered: float) -> float:
    """Share that waits in M/M/c, Erlang 1917; Gross & Harris, Fundamentals of Queueing Theory, section 2.3."""
    blocked = erlang_b(servers, offered)
    return blocked / (1 - _below_one(offered / servers) * (1 - blocked))


def mmc_sojourn_s(servers: int, rate: float, mean_s: float) -> float:
    """Mean sojourn in M/M/c: E[S] + C(c, a) E[S] / (c − a)."""
    offered = rate * mean_s
    return mean_s + erlang_c(servers, offered) * mean_s / (servers - offered)


def mm1k_loss(places: int, load: float) -> float:
    """Share that is lost in M/M/1/K, the one in service included: ρ^K (1 − ρ) / (1 − ρ^(K+1)); Gross & Harris, 2.4."""
    weights = [load**number for number in range(places + 1)]
    return weights[-1] / math.fsum(weights)


def mm1k_sojourn_s(places: int, load: float, mean_s: float) -> float:
    """Mean sojourn in M/M/1/K of whom is let in, by Little's law."""
    weights = [load**number for number in range(places + 1)]
    inside = math.fsum(number * weight for number, weight in enumerate(weights)) / math.fsum(weights)
    return inside / (load / mean_s * (1 - mm1k_loss(places, load)))


def processor_sharing_slowdown(load: float) -> float:
    """E[T | S = x] / x in M/G/1 processor sharing: 1 / (1 − ρ) for every x and every law; Kleinrock vol. 2, 4.4."""
    return 1 / (1 - _below_one(load))


def vacation_sojourn_s(
    rate: float, mean_s: float, busy_s: float, busy_second_moment_s2: float, vacation_s: float
) -> float:
    """Mean sojourn in M/G/1 whose idle server looks for work every ``vacation_s`` only.

    Wait of M/G/1 + E[V²] / (2 E[V]) (Fuhrmann & Cooper, Operations Research 33(5), 1985; Levy & Yechiali 1975). The
    server is taken up for ``busy_s`` by a job that is over after ``mean_s``.
    """
    return mean_s + mg1_wait_s(rate, busy_s, busy_second_moment_s2) + vacation_s / 2


def bulk_sojourn_s(rate: float, pass_s: float) -> float:
    """Mean sojourn where a server takes all who wait into one pass of constant length: bulk service M/D[1,∞]/1.

    After a pass in which nobody arrived, with probability e^(−λd), the server idles for 1/λ on average, so by renewal
    and reward it is busy for a share λd / (λd + e^(−λd)). Arrivals see that (PASTA), and one that finds it busy waits
    d/2 on average. (Bulk queues: Bailey, J. R. Stat. Soc. B 16, 1954; Neuts, Ann. Math. Stat. 38, 1967.)
    """
    expected = rate * pass_s
    return pass_s + pass_s / 2 * expected / (expected + math.exp(-expected))


def harmonic(number: int) -> float:
    """H_n = Σ 1/k: the mean of the largest of n exponentials of mean 1 (Rényi, Acta Math. Hung. 4, 1953)."""
    return math.fsum(1 / k for k in range(1, number + 1))


def fork_join_sojourn_s(rate: float, mean_s: float) -> float:
    """Mean time until both of two parallel M/M/1 queues with common arrivals are done: (12 − ρ)/8 of one's sojourn.

    Flatto & Hahn, SIAM J. Appl. Math. 44, 1984; Nelson & Tantawi, IEEE Trans. Comput. 37(6), 1988.
    """
    return (12 - rate * mean_s) / 8 * mm1_sojourn_s(rate, mean_s)


def two_place_throughput(small: float, mean_s: float) -> float:
    """Throughput of two servers with a full queue, first come, first served, where some jobs need both servers.

    A share ``small`` of the jobs needs one server; holding times are exponential. A large job at the head keeps a
    server idle, so no more than 2 / (2 − p²) jobs per mean holding time get through. From the balance of the states
    "two small ones", "a small one while a large one waits" and "a large one": with q = 1 − p their probabilities are as
    p²/(2q) : p : 1. (Model: Brill & Green, Management Science 30(1), 1984; Rumyantsev & Morozov, Ann. Oper. Res. 252,
    2017.)
    """
    return 2 / (2 - small * small) / mean_s


def geometric_fractile(mean: float, fractile: float) -> int:
    """The smallest k with P(D ≤ k) ≥ fractile, for D = 1, 2, … with this mean."""
    return max(1, math.ceil(math.log1p(-fractile) / math.log1p(-1 / mean)))


def newsvendor_cost(mean: float, order: int, missing: float, superfluous: float) -> float:
    """c_u E[(D − S)⁺] + c_o E[(S − D)⁺] for D geometric on 1, 2, …: E[(D − S)⁺] = mean · (1 − 1/mean)^S.

    Smallest at the fractile c_u / (c_u + c_o): Arrow, Harris, Marschak, Econometrica 19, 1951.
    """
    short = mean * (1 - 1 / mean) ** order
    return missing * short + superfluous * (order - mean + short)


def flow_shop_s(stages_s: Sequence[float], jobs: int) -> float:
    """When the last of some identical jobs leaves stages in a row: Σ p + (n − 1) max p; Johnson 1954, all jobs alike."""
    return math.fsum(stages_s) + (jobs - 1) * max(stages_s)


def chunked_transfer_s(bytes_: int, chunks: int, bandwidth: float, write_s: float, control_s: float) -> float:
    """From a request's arrival to its delivery when it is cut and nobody else is there: n (a + 2c) + m/B.

    Every chunk costs an offer and a status (``control_s`` each) and the constant part of a write ``write_s``; its bytes
    take what they take however they are cut. Scheduler loops have no period.
    """
    return chunks * (write_s + 2 * control_s) + bytes_ / bandwidth
