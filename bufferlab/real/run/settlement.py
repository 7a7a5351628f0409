"""What came of a measured run, out of the reports of its ranks and what its router has seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import msgspec

from bufferlab.protocol.recording import Event, Record
from bufferlab.protocol.status import Status
from bufferlab.real.engine.proof import TransportProof, with_own_traffic, with_traffic
from bufferlab.real.run.commands import Report
from bufferlab.real.run.outcome import RealOutcome
from bufferlab.real.run.ranks import Ranks
from bufferlab.real.run.record_store import RecordStore
from bufferlab.real.run.requests import Requests
from bufferlab.real.run.state import RunState
from bufferlab.real.run.usage import Usage

Sent = Mapping[str, Mapping[str, int]]
"""By host, how far its counters of sent bytes were."""


def settle(
    state: RunState,
    requests: Requests,
    record_store: RecordStore,
    *,
    end_s: float,
    deadlocks: Sequence[str],
    usage: Usage | None,
    sent_before: Sent,
) -> RealOutcome:
    """The outcome of a run that is over. ``usage``: the router's own; ``sent_before``: counters as it began."""
    ranks, reports = state.ranks, list(state.reports.values())
    records = record_store.merged(lambda records: ranks.clocked(records, state.zero_s))
    failed = {(one.room, one.incarnation) for one in requests.conclusions if one.status is not Status.Success}
    succeeded = {(one.room, one.incarnation) for one in requests.conclusions} - failed
    proof = _proof(ranks, records, sent_before, reports)
    befell = state.troubles.sentences({(one.room, one.incarnation) for one in requests.submitted} - succeeded)
    return RealOutcome(
        requests=requests.submitted,
        records=records,
        proof=proof,
        verified_rooms=sum(report.verified_rooms for report in reports),
        verified_bytes=sum(report.verified_bytes for report in reports),
        mismatches=[difference for report in reports for difference in report.differences],
        rooms_left=sum(report.rooms_left for report in reports),
        blocks_lost=sum(report.blocks_lost for report in reports),
        end_s=end_s,
        deadlocks=tuple(deadlocks),
        conclusions=requests.conclusions,
        incidents=state.incidents,
        rooms_quarantined=sum(report.rooms_quarantined for report in reports),
        left=frozenset((room, report.rank_id) for report in reports for room in report.left),
        quarantined=frozenset((room, report.rank_id) for report in reports for room in report.quarantined),
        blocks_fenced=sum(report.blocks_fenced for report in reports),
        frames_dropped=ranks.frames_dropped + sum(report.frames_dropped for report in reports),
        messages_stale=sum(report.messages_stale for report in reports),
        processes=ranks.processes,
        clocks=ranks.clocks,
        memory=ranks.memory,
        usage={report.rank_id: report.usage for report in reports if report.usage is not None},
        router_usage=usage,
        faults=(*befell, *filter(None, [proof.refuted])),
        ended_early=requests.ended_early,
        violations=tuple(chain.from_iterable(_uneven(ranks, record_store, report) for report in reports)),
        cut_short=frozenset() if ranks.mortal else frozenset(ranks.ids) - state.reports.keys(),
        refused=[*ranks.refused(), *(one for report in reports for one in report.refused)],
    )


def _uneven(ranks: Ranks, record_store: RecordStore, report: Report) -> Iterator[str]:
    """A sentence for everything that is not as it must be at the end of a rank."""
    rank_id = report.rank_id
    if report.rooms_left:
        yield f"{rank_id} ended with {report.rooms_left} rooms that were not over"
    if report.blocks_lost:
        yield f"{rank_id} ended with {report.blocks_lost} blocks missing in its pool"
    delivered = record_store.delivered(rank_id, ranks.children[rank_id].generation)
    compared = report.verified_rooms + len(report.differences)
    if ranks.verify and delivered != compared:
        yield f"{rank_id} delivered {delivered} embeddings and compared {compared}"


def _proof(ranks: Ranks, records: Iterable[Record], before: Sent, reports: Sequence[Report]) -> TransportProof:
    """The first rank's proof, with what each host sent while its ranks wrote."""
    hosts = ranks.hosts
    proof = ranks.proofs[min(ranks.proofs)]
    written: Counter[str] = Counter()
    for record in records:
        if record.event is Event.WRITE_DONE:
            written[hosts.address_of(record.rank_id)] += record.bytes
    after = hosts.sent_counters()
    names = dict.fromkeys([*before, *after, *written])
    for host in names:
        if not written[host] and len(names) > 1:
            continue
        if host in before and host in after:
            where = f"on {host}, " if len(names) > 1 else ""
            proof = with_traffic(proof, before[host], after[host], written[host], where)
        else:
            told = f"{written[host]} bytes were written; it did not say what it sent meanwhile"
            proof = msgspec.structs.replace(proof, evidence=[*proof.evidence, f"on {host}, {told}"])
    counted = [report.traffic for report in reports if report.traffic is not None]
    return with_own_traffic(proof, counted, len(ranks.ids)) if counted else proof
