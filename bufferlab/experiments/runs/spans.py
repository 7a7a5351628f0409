"""What took how long on which rank, from recorded events: writes with their wait for the writing thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bufferlab.experiments.config.incidents import parse_rank
from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.topology import RankId


class Write(NamedTuple):
    """One write of a chunk to one rank; times in seconds.

    ``chunk`` counts from 0. ``asked_s``: the core asked for it; ``begun_s``: the writing thread had ended what came
    before; ``done_s``: its last byte, or its failure, was known.
    """

    rank_id: RankId
    peer: RankId
    room: int
    chunk: int
    asked_s: float
    begun_s: float
    done_s: float
    bytes: int


def in_order(records: Iterable[Record]) -> list[Record]:
    """Records of one replication in order of time; those of one rank at one time stay as they were recorded."""
    return sorted(records, key=lambda record: record.time_s)


def writes_of(records: Iterable[Record], transfer_workers: int) -> Iterator[Write]:
    """The writes that ended, in the order in which they did; ``records`` of one replication in order of time.

    All writes of a rank to one language instance are those of one thread (instance modulo ``transfer_workers``), one
    after the other, so a write begins when it is asked for or when the thread's last one is done.
    """
    asked: dict[tuple[RankId, int, RankId], tuple[float, int]] = {}
    chunks: dict[tuple[RankId, int], int] = {}
    free_s: dict[tuple[RankId, int], float] = {}
    for record in records:
        rank_id, room = record.rank_id, record.room
        if record.event is Event.SUBMITTED:
            chunks.pop((rank_id, room), None)  # a room number may come again
        elif record.event is Event.CHUNK_STARTED:
            chunks[rank_id, room] = chunks.get((rank_id, room), -1) + 1
        elif record.event is Event.WRITE_STARTED:
            asked[rank_id, room, _peer(record)] = record.time_s, chunks[rank_id, room]
        elif record.event is Event.WRITE_DONE:
            peer = _peer(record)
            worker = (rank_id, peer.instance % transfer_workers)
            asked_s, chunk = asked.pop((rank_id, room, peer))
            begun_s = max(asked_s, free_s.get(worker, asked_s))
            free_s[worker] = record.time_s
            yield Write(rank_id, peer, room, chunk, asked_s, begun_s, record.time_s, record.bytes)


def _peer(record: Record) -> RankId:
    """The rank that a record of a destination domain names first."""
    return parse_rank(record.detail.split(" ", 1)[0])
