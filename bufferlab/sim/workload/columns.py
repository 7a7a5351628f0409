"""Requests as columns: what is drawn or read is arrays, and becomes requests one at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields

import numpy

from bufferlab.protocol.emulation.requests import Request
from bufferlab.sim.workload.lengths import Counts, Reals


@dataclass(frozen=True, eq=False, kw_only=True)
class Columns:
    """Requests in order of arrival, a column for each field of ``protocol.emulation.scenario.Request``.

    ``client`` counts places of ``clients``. Columns that are not given are 0, the factors 1.
    """

    arrival_s: Reals
    total_tokens: Counts
    text_tokens: Counts
    images: Counts
    image_tokens_hint: Counts
    image_squares: Counts
    encode_factor: Reals
    prefill_factor: Reals
    client: Counts
    clients: tuple[str, ...] = ("",)

    @staticmethod
    def of(
        arrival_s: Reals,
        total_tokens: Counts,
        *,
        text_tokens: Counts | None = None,
        images: Counts | None = None,
        image_tokens_hint: Counts | None = None,
        image_squares: Counts | None = None,
        client: Counts | None = None,
        clients: tuple[str, ...] = ("",),
    ) -> Columns:
        """Columns of which those that are not given are 0, the factors 1."""
        nothing = numpy.zeros(len(arrival_s), dtype=numpy.int64)
        ones = numpy.ones(len(arrival_s))
        return Columns(
            arrival_s=arrival_s,
            total_tokens=total_tokens,
            text_tokens=nothing if text_tokens is None else text_tokens,
            images=nothing if images is None else images,
            image_tokens_hint=nothing if image_tokens_hint is None else image_tokens_hint,
            image_squares=nothing if image_squares is None else image_squares,
            encode_factor=ones,
            prefill_factor=ones,
            client=nothing if client is None else client,
            clients=clients,
        )

    def __len__(self) -> int:
        return len(self.arrival_s)

    def rows(self, chosen: slice | Counts) -> Columns:
        """The rows at some places, in their order."""
        return Columns(**{name: getattr(self, name)[chosen] for name in COLUMNS}, clients=self.clients)

    def locked(self) -> Columns:
        """These columns, which nobody can write to any more."""
        for name in COLUMNS:
            getattr(self, name).flags.writeable = False
        return self

    def first(self, count: int | None) -> Columns:
        """The first ``count`` rows, or all."""
        return self.rows(slice(count))


COLUMNS = tuple(one.name for one in fields(Columns) if one.name != "clients")


def joined(blocks: Iterable[Columns]) -> Columns:
    """All rows of ``blocks``, at least one, which must have the same clients."""
    listed = list(blocks)

    columns = {name: numpy.concatenate([getattr(block, name) for block in listed]) for name in COLUMNS}
    return Columns(**columns, clients=listed[0].clients)


def requests_of(
    blocks: Iterable[Columns], *, first_room: int = 0, encode_instances: int = 1, language_instances: int = 1
) -> Iterator[Request]:
    """Requests of columns; the i-th, counted from 0, goes to instance i modulo their number on each side."""
    number = 0
    for block in blocks:
        clients = block.clients
        rows = zip(
            block.arrival_s.tolist(),
            block.total_tokens.tolist(),
            block.text_tokens.tolist(),
            block.images.tolist(),
            block.image_tokens_hint.tolist(),
            block.client.tolist(),
            block.image_squares.tolist(),
            block.encode_factor.tolist(),
            block.prefill_factor.tolist(),
            strict=True,
        )
        for arrival_s, total, text, images, hint, client, squares, encode_factor, prefill_factor in rows:
            # By position: names cost a third of the making. 0 is the incarnation of what was never asked for before.
            yield Request(
                first_room + number, arrival_s, total, text, images, hint, clients[client], 0,
                number % encode_instances, number % language_instances, squares, encode_factor, prefill_factor,
            )  # fmt: skip
            number += 1
