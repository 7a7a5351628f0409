"""What one request has to do with those before it: storms that come and go, and clients that repeat themselves."""

from __future__ import annotations

import numpy
from numpy.typing import NDArray

from bufferlab.sim.streams import stream
from bufferlab.sim.workload.lengths import Counts, Reals
from bufferlab.sim.workload.mix import Mix

KIND, TEXT, IMAGES, IMAGE_TOKENS, SQUARES, TOTAL = range(6)
"""Columns of the lengths of a block."""


class StormClock:
    """Whether a storm is on, moment by moment; see ``Storm``."""

    def __init__(self, mix: Mix, seed: int, replication: int) -> None:
        self._storm = mix.storm
        if self._storm is None or self._storm.when != "modulated":
            return
        self._generator = stream(seed, replication, "storm")
        # In the long run the share of the time is right, and so it is at time 0.
        self._first_stormy = bool(self._generator.random() < self._storm.share)
        self._changes_s = [self._lasts_s(0)]
        self._passed = 0

    def _lasts_s(self, number: int) -> float:
        assert self._storm is not None
        stormy = self._first_stormy ^ (number % 2 == 1)
        calm_s = self._storm.mean_s * (1 - self._storm.share) / self._storm.share
        return float(self._generator.exponential(self._storm.mean_s if stormy else calm_s))

    def at(self, seconds: Reals) -> NDArray[numpy.bool_]:
        """For each of ``seconds``, which must not fall, whether it is stormy."""
        if self._storm is None or self._storm.when != "modulated":
            always = self._storm is not None and self._storm.when == "always"
            return numpy.full(len(seconds), always)
        while self._changes_s[-1] <= seconds[-1]:
            self._changes_s.append(self._changes_s[-1] + self._lasts_s(self._passed + len(self._changes_s)))
        states = (self._passed + numpy.searchsorted(self._changes_s, seconds, side="right")) % 2 == 1
        behind = max(int(numpy.searchsorted(self._changes_s, seconds[-1], side="right")) - 1, 0)
        self._passed += behind
        del self._changes_s[:behind]
        return states ^ self._first_stormy


class Pool:
    """Spare lengths by owner and length class, for requests that repeat a class."""

    def __init__(self, rows: Counts, owners: Counts) -> None:
        self.rows = rows
        self._places: dict[tuple[int, int], list[int]] = {}
        for place, key in enumerate(zip(owners.tolist(), _classes(rows).tolist(), strict=True)):
            self._places.setdefault(key, []).append(place)

    def find(self, owner: int, length_class: int, level: float) -> Counts | None:
        """Lengths of that class, the one at ``level`` (in [0, 1)) of all there are; None if there are none."""
        places = self._places.get((owner, length_class))
        return None if places is None else self.rows[places[int(level * len(places))]]


class Repeater:
    """Lets a client's next request be of the length class of its last, now and then.

    The class of a client's requests is then a Markov chain whose stationary law is that of the mix: with the repeat
    probability it stays, else it is drawn anew.
    """

    def __init__(self, probability: float, seed: int, replication: int) -> None:
        self.active = probability > 0
        self._probability = probability
        self._seed, self._replication = seed, replication
        self._last: dict[int, tuple[int, int, Counts]] = {}

    def repeated(
        self,
        rows: Counts,
        clients: Counts,
        owners: Counts,
        stormy: NDArray[numpy.bool_],
        pools: list[Pool],
        entity: str,
    ) -> Counts:
        """``rows`` of ``clients``, some replaced by others from ``pools`` (calm and stormy) of the same owner."""
        draws = stream(self._seed, self._replication, "repeat-draws", entity).random((len(rows), 2))
        classes = _classes(rows)
        out = rows.copy()
        told = zip(clients.tolist(), owners.tolist(), classes.tolist(), stormy.tolist(), draws.tolist(), strict=True)
        for place, (client, owner, length_class, in_storm, (whether, level)) in enumerate(told):
            last = self._last.get(client)
            if last is not None and whether < self._probability:
                owner, length_class, before = last
                found = pools[int(in_storm)].find(owner, length_class, level)
                # A class too rare for the spare block repeats its lengths as they were.
                out[place] = before if found is None else found
            self._last[client] = (owner, length_class, out[place])
        return out


def _classes(rows: Counts) -> Counts:
    """The length class of every row: the place of its length's highest bit."""
    return numpy.frexp(rows[:, TOTAL].astype(float))[1].astype(numpy.int64)
