"""The textbook's own recursions for first come, first served: exact on given arrivals and services, and very fast.

They stand between the simulator and the closed forms. On a few thousand requests the simulator must do what the
recursion does, request by request; the recursion then shows over millions that the closed form is met at loads at which
the simulator alone would take hours for a narrow interval.
"""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

Times = NDArray[numpy.float64]


def one_server(arrivals_s: Times, services_s: Times) -> Times:
    """Departures from one server: D_n = max(A_n, D_(n−1)) + S_n (Lindley, Proc. Camb. Phil. Soc. 48, 1952).

    Unrolled, D_n = Σ_(k≤n) S_k + max_(k≤n) (A_k − Σ_(i<k) S_i), which are a running sum and a running maximum.
    ``arrivals_s`` must not decrease.
    """
    done = numpy.cumsum(services_s, axis=-1)
    return done + numpy.maximum.accumulate(arrivals_s - (done - services_s), axis=-1)


def some_servers(arrivals_s: Times, services_s: Times, servers: int) -> Times:
    """Departures from several servers with one queue, by customer (Kiefer & Wolfowitz, Trans. AMS 78, 1955).

    Arrays are replication × customer. The server that is free first takes the next customer.
    """
    replications, customers = arrivals_s.shape
    free_s = numpy.zeros((replications, servers))
    rows = numpy.arange(replications)
    departures_s = numpy.empty((customers, replications))
    # Customer after customer, so a row of all replications lies together in memory.
    for number, (arrival_s, service_s) in enumerate(
        zip(numpy.ascontiguousarray(arrivals_s.T), numpy.ascontiguousarray(services_s.T), strict=True)
    ):
        first = free_s.argmin(axis=1)
        leaves_s = numpy.maximum(free_s[rows, first], arrival_s) + service_s
        free_s[rows, first] = leaves_s
        departures_s[number] = leaves_s
    return departures_s.T
