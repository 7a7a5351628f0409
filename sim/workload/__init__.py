"""Workloads: length models and arrivals as data, and the requests drawn from them.

``mix`` says what a workload is and reads the shipped ones (``sim/workloads/*.toml``), ``lengths`` has the
distributions, ``vision`` the rules by which images become tokens, ``arrivals`` the processes by which requests come,
and ``draw`` makes requests of it all, as ``columns``. A request is text + sum over its images of (tokens + 2), the two
being the tokens around an image.
"""

from sim.workload.arrivals import BLOCK_REQUESTS, LEAST_CV, Arrivals, ClientArrivals, Pace, even_times, superposed_times
from sim.workload.columns import Columns, joined, requests_of
from sim.workload.draw import (
    ORDERS,
    Order,
    Variation,
    generate,
    generate_blocks,
    service_factors,
)
from sim.workload.lengths import (
    QUANTILE_LEVELS,
    Choice,
    Constant,
    Counts,
    Frames,
    Geometric,
    Length,
    LogNormal,
    Mixture,
    Pictures,
    Quantiles,
    Reals,
    Uniform,
    Video,
)
from sim.workload.mix import (
    IMAGE_BOUNDARY_TOKENS,
    Mix,
    Option,
    RequestKind,
    Storm,
    check_chosen,
    check_options,
    constant_mix,
    load_mix,
    mix_from,
    mix_names,
    mix_options,
)

__all__ = [
    "BLOCK_REQUESTS",
    "IMAGE_BOUNDARY_TOKENS",
    "LEAST_CV",
    "ORDERS",
    "QUANTILE_LEVELS",
    "Arrivals",
    "Choice",
    "ClientArrivals",
    "Columns",
    "Constant",
    "Counts",
    "Frames",
    "Geometric",
    "Length",
    "LogNormal",
    "Mix",
    "Mixture",
    "Option",
    "Order",
    "Pace",
    "Pictures",
    "Quantiles",
    "Reals",
    "RequestKind",
    "Storm",
    "Uniform",
    "Variation",
    "Video",
    "check_chosen",
    "check_options",
    "constant_mix",
    "even_times",
    "generate",
    "generate_blocks",
    "joined",
    "load_mix",
    "mix_from",
    "mix_names",
    "mix_options",
    "requests_of",
    "service_factors",
    "superposed_times",
]
