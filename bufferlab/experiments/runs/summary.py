"""The figures of a run, summary.json: what each means and how it is computed.

``requests`` are counts over all replications. Every estimate is ``{"value", "low", "high"}`` with a 95 % interval: with
two or more replications its value is the mean over replications and the interval a t interval across them
(``intervals``); with one, the interval comes from successive batches of the run (``batching``), and there is none if
the run is too short for that, as it is for a p99 of fewer than 10,000 requests. A share that was 0 or 1 throughout has
no interval either.

* ``replication_kind``: what the replications are to one another, "independent" or "resampled" (``stats.replicates``);
  None of a single one. Of a resampled file every value is that of replication 0, the file itself, the verdict on the
  capacity is on it alone, and the counts are of all replications together. ``replicates``: how many ``blocks`` carry
  its traffic, how many make a ``window``, and a ``caution`` where intervals hold the truth less often than they say.
* ``latency_s``: arrival to delivered; ``transfer_s``: embedding ready (last encode rank) to delivered. Delivered
  requests only. Quantiles are order statistics.
* ``ttft_s``: arrival to the end of the prefill, when the first token is there; of the requests whose prefill ended.
  Where the configuration has no prefill time it is the latency.
* ``slo``: shares of all requests, those that were not served with them, that kept ``slo.ttft_s``, ``slo.latency_s``,
  and all of these limits that are set; none of a limit that is not.
* ``throughput_rps``: deliveries a second in the *window*, the time in which requests were offered or unfinished: from
  the first arrival to the time at which all ranks were done with the last request, delivered or failed, and held
  nothing of it any more (``protocol.observe.runlog``). A request of which a rank never says so, because it died, makes
  the window last as long as the run.
* ``failure_rate``: share of the requests that were not served, because they failed or never came to an end;
  ``requests.not_served`` is their number. ``failures``: how often each reason for a failure came, most frequent first;
  numbers in which reasons differ are left out of them.
* ``resume.rate``: share of the delivered requests that came in more than one chunk; ``resume.mean_chunks``: their mean
  number of chunks.
* ``language_pool``, ``encode_pool``, over all ranks of the side, in the window: ``mean_occupancy``, time-weighted held
  blocks over blocks; ``peak_occupancy``, most blocks held at once over blocks; ``wasted_fraction``, the part of the
  held token-seconds no token was meant for; ``blocked_s``, seconds requests waited for blocks, summed over requests,
  and ``blocked_per_request_s``, their mean over all requests, of which most as a rule waited for none. A peak has no
  interval in a single replication: parts of a run say nothing about the highest point of a whole one.
* ``utilisation``: the share of the window that each stage was busy, a mean over its servers: the ``preprocessing``
  processors, the ``encoder`` and the ``prefill`` of every instance, the ``writers`` (threads that have anybody to write
  to), the ``adapters`` (the busier direction; only a simulated link that is shared tells), the blocks of the pools.
  None where a configuration has no such stage, or a measured run cannot know.
* ``capacity``: whether the system keeps up with what it is offered (``capacity``): ``verdict`` is within, near, over,
  closed (a closed loop) or unknown (no rate, or nothing served), ``bottleneck`` the stage that holds it back,
  ``sentence`` says both. ``stretch``: when it was over its capacity, or a stage full, if that was not all the
  time (null else). ``busy`` has the shares of the time in which requests were *offered*, of pools the share in
  which requests waited for them.
* ``deadlock``: whether any replication stood still with requests unfinished; ``deadlock_rate``: the share that did,
  with Wilson's interval.
* ``warmup``: ``discarded_requests``, how many first requests of all replications together were left out of all figures
  but the counts (``run.warmup_requests`` of each; the window then begins with the arrival of the next one);
  ``mser5_requests``, how many first requests MSER-5 would leave out; ``mser5_unknown``, in how many replications it
  found the run too short to tell.
* ``invariant_violations``: violations of invariants found in the records (``protocol.observe``) and at the end of the
  run (rooms left, blocks missing), plus wrong bytes and embeddings that were not compared in a measured run.
  ``monitored_replications``: in how many replications the records were looked at: all of a measured run, the first of a
  simulated one. The end is looked at in all.
* ``faults``: a sentence for everything that went wrong with a process of a measured run and was not in its plan; a run
  with some ends with status 1. ``ended_early``: why requests were not handed out any more, if so; these are not among
  those offered.
* ``events_per_request``: events of the protocol over requests, recorded or not. ``wall_s`` and ``requests_per_wall_s``
  are the only figures that differ when a simulated run is repeated.
* ``replications``: for each one its end and its window, whether it was monitored, whether it deadlocked and which rooms
  did, its faults, MSER-5's count (None: too short to tell) and ``latency_autocorrelation_requests``, how many
  successive requests tell as much about the mean latency as one independent request would.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from bufferlab.experiments.runs.capacity import evidence, judge
from bufferlab.experiments.runs.estimates import FIGURES, RANKED_FIGURES, Measure, caution_of, deadlock_rate
from bufferlab.experiments.runs.failures import counted
from bufferlab.experiments.runs.replication import NO_LIMITS, Replication
from bufferlab.experiments.runs.rundir import SUMMARY_SCHEMA
from bufferlab.experiments.stats.batching import (
    autocorrelation_time,
)
from bufferlab.experiments.stats.intervals import Estimate, within
from bufferlab.experiments.stats.replicates import INDEPENDENT
from bufferlab.protocol.naming import put
from bufferlab.protocol.status import FINAL, Status


def summarise(replications: Sequence[Replication], *, kind: str, transport: str, wall_s: float) -> dict[str, Any]:
    """The content of summary.json but for ``replications``, which ``each`` gives."""
    replicates = replications[0].replicates if len(replications) > 1 else INDEPENDENT
    # What is said of the traffic is said of the file, not of what was put together from it.
    judged = replications[:1] if replicates.resampled else replications
    offered = sum(one.offered for one in replications)
    statuses: Counter[str] = sum((one.statuses for one in replications), Counter())
    succeeded = statuses[Status.Success.name]
    records = sum(one.records for one in replications)
    cuts = [one.mser5_requests() for one in replications]
    summary: dict[str, Any] = {
        "schema": SUMMARY_SCHEMA,
        "kind": kind,
        "transport": transport,
        "replication_kind": None if len(replications) < 2 else replicates.kind,
        "replicates": _of_resamples(replications) if replicates.resampled else None,
        "requests": {
            "offered": offered,
            "succeeded": succeeded,
            "failed": statuses[Status.Failed.name],
            "unfinished": sum(statuses[status.name] for status in Status if status not in FINAL),
            "not_served": offered - succeeded,
        },
        "failures": counted(sum((one.requests.reasons for one in replications), Counter())),
    }
    known: dict[Measure, Estimate] = {}  # some stand in two places
    for figure in FIGURES:
        if figure.of not in known:
            known[figure.of] = figure.estimate(replications)
        put(summary, figure.path, known[figure.of].copy())
    summary["slo"]["limits"] = (replications[0].slo if replications else NO_LIMITS)._asdict()
    deadlocks = sum(one.deadlock for one in replications)
    return {
        **summary,
        "capacity": judge([evidence(one) for one in judged]),
        "deadlock": deadlocks > 0,
        "deadlock_rate": deadlock_rate(deadlocks, len(replications), replicates),
        "warmup": {
            "discarded_requests": sum(min(one.warmup_requests, one.offered) for one in replications),
            "mser5_requests": within(replicates.estimate(cuts), 0.0),
            "mser5_unknown": cuts.count(None),
        },
        "invariant_violations": sum(one.violations for one in replications),
        "monitored_replications": sum(one.monitored for one in replications),
        "faults": [fault for one in replications for fault in one.faults],
        "ended_early": next((one.ended_early for one in replications if one.ended_early), None),
        "wall_s": wall_s,
        "requests_per_wall_s": offered / wall_s if wall_s > 0 else None,
        "events_per_request": records / offered if offered else None,
    }


def _of_resamples(replications: Sequence[Replication]) -> dict[str, Any]:
    """How the replications of a file are to be read, and what their intervals may lack."""
    rests_on = {figure.name: figure.parts(replications[0]) for figure in FIGURES if figure.name in RANKED_FIGURES}
    return replications[0].replicates.content() | {"caution": caution_of(rests_on)}


def each(replications: Sequence[Replication]) -> list[dict[str, Any]]:
    """What summary.json says of every single replication, in order."""
    found = []
    for one in replications:
        latencies = one.latencies_s()
        found.append(
            {
                "end_s": one.end_s,
                "window_start_s": one.window_s[0],
                "window_end_s": one.window_s[1],
                "adapters": one.adapters,
                "monitored": one.monitored,
                "deadlock": one.deadlock,
                "deadlocks": list(one.deadlocks),
                "faults": list(one.faults),
                "ended_early": one.ended_early or None,
                "mser5_requests": one.mser5_requests(),
                "latency_autocorrelation_requests": autocorrelation_time(latencies) if len(latencies) else None,
            }
        )
    return found
