"""The laws that a link may follow: what one batch of segments takes a writing thread.

For ``n`` segments of ``m`` bytes from each of ``T`` threads that write one batch after the other over the same
adapters, every law is a sum of parts that cost something, each cost at least 0:

    latency_s + per_segment_s · n + per_queue_s · min(n, queues) + T · n · max(1 / message_rate_per_s, m /
    bandwidth_Bps)

so that for a given *shape* (the size below which segments cost the same, how sharp that bend is, the number of queues)
the costs follow from linear least squares. So do those of several adapters, which a write has together from some size
on. One law is of another kind: ``crowded`` lets bytes cost more the more segments a batch keeps in flight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product

import numpy as np

from bufferlab.experiments.calibration.laws.samples import Array, Samples

Shape = Mapping[str, float]

QUEUES = (2, 4, 8, 16, 32, 64)
ADAPTERS = (2, 4, 8, 16)
SHARPNESS = (2, 3, 4, 6, 8)
"""Exponents of a smooth maximum: 2 is a wide bend, and above 8 nobody can tell it from a sharp one."""

KNEES_BETWEEN_SIZES = 4
"""Bends tried from one measured size to the next, before the best of them is refined."""
MOST_SIZES = 24
"""Of more sizes, as in a run, so many in equal steps of the logarithm stand for all."""


@dataclass(frozen=True)
class Form:
    """One law. ``costs``: its parts, in the order of ``columns``; ``shape``: what bends it.

    ``simulated``: whether a link profile can say it. ``counted``: "queues" or "adapters", in a law that has them, and
    ``count`` how many: they are a property of the machine, so laws with different numbers of them are different laws.
    """

    name: str
    formula: str
    costs: tuple[str, ...]
    shape: tuple[str, ...] = ()
    simulated: bool = True
    counted: str = ""
    count: int = 1

    @property
    def title(self) -> str:
        """The name, with the number of queues or adapters."""
        return self.name.replace(self.counted, f"{self.count} {self.counted}") if self.counted else self.name

    @property
    def size(self) -> int:
        """Number of parameters; of two laws that do as well the one with fewer is taken."""
        return len(self.costs) + len(self.shape) + bool(self.counted)

    @property
    def continuous(self) -> int:
        """Number of parameters that may have any value: so many samples at least are needed to tell them."""
        return len(self.costs) + ("knee_bytes" in self.shape)

    def columns(self, samples: Samples, shape: Shape) -> Array:
        """One column a cost: its part's seconds per unit of it, for every sample."""
        return np.column_stack([PARTS[name](samples, shape) for name in self.costs])

    def shapes(self, samples: Samples) -> list[dict[str, float]]:
        """Shapes to try for these samples; none if the samples cannot tell."""
        grids: list[Sequence[float]] = []
        for name in self.shape:
            if name == "knee_bytes":
                grids.append(_between(samples.size_bytes, KNEES_BETWEEN_SIZES))
            elif name == "stripe_threshold_bytes":
                grids.append(_between(samples.size_bytes * samples.segments, 1))
            else:
                grids.append(SHARPNESS)
        known = {self.counted: float(self.count)} if self.counted else {}
        return [known | dict(zip(self.shape, values, strict=True)) for values in product(*grids)]

    def variants(self, samples: Samples) -> list[Form]:
        """The law itself, or with each number of queues or adapters that these samples might tell."""
        if not self.counted:
            return [self]
        if self.counted == "adapters":
            return [replace(self, count=adapters) for adapters in ADAPTERS]
        least, most = samples.segments.min(), samples.segments.max()
        return [replace(self, count=queues) for queues in QUEUES if least < queues < most]


def _between(values: Array, steps: int) -> list[float]:
    """From each value to the next, so many points in equal steps of the logarithm; only their middle for one step."""
    sizes = sorted(set(values))
    if len(sizes) > MOST_SIZES:
        sizes = list(np.geomspace(sizes[0], sizes[-1], MOST_SIZES))
    places = [0.5] if steps == 1 else [step / steps for step in range(steps)]
    return [float(low * (high / low) ** place) for low, high in pairwise(sizes) for place in places]


def _bytes(samples: Samples, shape: Shape) -> Array:
    """Bytes that the adapters move for a batch; a segment below the knee counts as one of the knee's size."""
    size, knee = samples.size_bytes, shape.get("knee_bytes", 0.0)
    if "sharpness" in shape:
        power = shape["sharpness"]
        counted = (size**power + knee**power) ** (1 / power)
    else:
        counted = np.maximum(size, knee)
    return np.asarray(samples.threads * samples.segments * counted)


def _striped_bytes(samples: Samples, shape: Shape) -> Array:
    """Bytes that one adapter moves for a batch: from the threshold on all share it, below as many as there are."""
    adapters = shape["adapters"]
    striped = samples.size_bytes * samples.segments >= shape["stripe_threshold_bytes"]
    writers = np.where(striped, samples.threads / adapters, np.maximum(samples.threads / adapters, 1.0))
    return np.asarray(samples.segments * samples.size_bytes * writers)


def _crowd(samples: Samples, shape: Shape) -> Array:
    return np.asarray(_bytes(samples, shape) * np.log2(samples.segments))


PARTS: dict[str, Callable[[Samples, Shape], Array]] = {
    "latency_s": lambda samples, _: np.ones(len(samples)),
    "per_segment_s": lambda samples, _: samples.segments,
    "per_queue_s": lambda samples, shape: np.minimum(samples.segments, shape["queues"]),
    "per_byte_s": lambda samples, shape: (
        _striped_bytes(samples, shape) if "adapters" in shape else _bytes(samples, shape)
    ),
    "crowding_s_per_byte": _crowd,
}
DISCRETE = ("queues", "adapters", "sharpness", "stripe_threshold_bytes")
"""Parameters that samples tell only up to a choice among some, so that they have no standard error."""

_BEND = "T·n·max(1/message_rate_per_s, m/bandwidth_Bps)"
_SMOOTH = "T·n·(message_rate_per_s^-p + (m/bandwidth_Bps)^p)^(1/p)"
_PLAIN = "T·n·m/bandwidth_Bps"
_QUEUES = "per_queue_s·min(n, queues)"
_STRIPED = "n·m/bandwidth_Bps·(T/adapters from stripe_threshold_bytes on, max(1, T/adapters) below)"

FORMS = (
    Form("rate", _PLAIN, ("per_byte_s",)),
    Form("affine", f"latency_s + {_PLAIN}", ("latency_s", "per_byte_s")),
    Form("roof", _BEND, ("per_byte_s",), ("knee_bytes",)),
    Form(
        "crowded",
        "T·n·m·(1/bandwidth_Bps + crowding_s_per_byte·log2(n))",
        ("per_byte_s", "crowding_s_per_byte"),
        simulated=False,
    ),
    Form("segments", f"latency_s + per_segment_s·n + {_PLAIN}", ("latency_s", "per_segment_s", "per_byte_s")),
    Form("latency and roof", f"latency_s + {_BEND}", ("latency_s", "per_byte_s"), ("knee_bytes",)),
    Form(
        "latency and smooth roof", f"latency_s + {_SMOOTH}", ("latency_s", "per_byte_s"), ("knee_bytes", "sharpness"),
        simulated=False,
    ),
    Form("batch", f"latency_s + per_segment_s·n + {_BEND}", ("latency_s", "per_segment_s", "per_byte_s"),
    ("knee_bytes",)), Form("queues", f"latency_s + {_QUEUES} + {_PLAIN}", ("latency_s", "per_queue_s", "per_byte_s"),
    counted="queues"), Form(
        "adapters", f"latency_s + {_STRIPED}", ("latency_s", "per_byte_s"), ("stripe_threshold_bytes",),
        counted="adapters",
    ),
    Form(
        "adapters and segments", f"latency_s + per_segment_s·n + {_STRIPED}", ("latency_s", "per_segment_s",
        "per_byte_s"), ("stripe_threshold_bytes",), counted="adapters",
    ),
    Form(
        "queues and segments",
        f"latency_s + per_segment_s·n + {_QUEUES} + {_PLAIN}",
        ("latency_s", "per_segment_s", "per_queue_s", "per_byte_s"),
        counted="queues",
    ),
    Form(
        "queues and batch",
        f"latency_s + per_segment_s·n + {_QUEUES} + {_BEND}",
        ("latency_s", "per_segment_s", "per_queue_s", "per_byte_s"),
        ("knee_bytes",),
        counted="queues",
    ),
)  # fmt: skip


def parameters(form: Form, costs: Array, shape: Shape) -> dict[str, float]:
    """The costs and the shape in the units of a link profile; ``inf`` where a part takes no time."""
    found = dict(zip(form.costs, costs.tolist(), strict=True))
    per_byte_s = found.pop("per_byte_s")
    found["bandwidth_Bps"] = 1 / per_byte_s if per_byte_s else math.inf
    if "knee_bytes" in shape:
        found["message_rate_per_s"] = found["bandwidth_Bps"] / shape["knee_bytes"]
    return found | {name: float(value) for name, value in shape.items() if name != "knee_bytes"}


def seconds(form: Form, found: Mapping[str, float], samples: Samples) -> Array:
    """What the law says for these samples, from its parameters."""
    costs = [1 / found["bandwidth_Bps"] if name == "per_byte_s" else found[name] for name in form.costs]
    shape = {name: found[name] for name in DISCRETE if name in found}
    if "knee_bytes" in form.shape:
        # Where bytes cost nothing, neither does a bend in what they cost.
        free = math.isinf(found["bandwidth_Bps"])
        shape["knee_bytes"] = 0.0 if free else found["bandwidth_Bps"] / found["message_rate_per_s"]
    return np.asarray(form.columns(samples, shape) @ np.array(costs))
