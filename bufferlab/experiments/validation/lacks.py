"""What a profile would have to say of a run, and does not, and where it is not about that run: the first thing to mend
where a prediction is off."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date

from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.text import counted
from bufferlab.experiments.validation.frozen import FrozenProfile
from bufferlab.experiments.validation.origin import processors_of

SLOW_LOOP_S = 3e-3
"""The thread of a loop with such a period falls asleep between two iterations."""
LONG_DAYS = 30
"""After so many a host has had its updates."""
DATE_LETTERS = len("2026-12-01")
REMEDY = "bufferlab calibrate --here --out my.toml measures one that has it"


def lacks(run: StoredRun, profile: FrozenProfile) -> Iterator[str]:
    """A sentence for each of it; none for simulated runs, which have no other host than their profile's."""
    if run.kind != "real":
        return
    config, link = run.config, profile.link
    yield from _other_transport(config.real.transport, profile.transport)
    yield from _other_host(run.processors, processors_of(profile))
    yield from _old(run.date, profile.date)
    host = link.host
    processes = _processes(config)
    if host is None:
        if run.processors is not None and processes > run.processors:
            yield f"this profile has no [host]: {processes} processes shared {run.processors} processors; {REMEDY}"
        return
    if max(config.encode.tp, config.language.tp) > 1 and not host.collective_s(1.0):
        yield (
            "this profile's [host] has no all-reduces (collective_quantiles_s): the ranks of a group held them all "
            f"the time; {REMEDY}"
        )
    services = config.scenario().services
    if not link.wakeup_s and max(services.encode_poll_interval_s, services.language_poll_interval_s) >= SLOW_LOOP_S:
        slow_s = max(services.encode_poll_interval_s, services.language_poll_interval_s)
        yield (
            f"this profile does not say how late a thread wakes up (wakeup_s is 0): loops iterated every "
            f"{1e3 * slow_s:g} ms, and their threads slept in between; {REMEDY}"
        )


def _other_transport(measured: str, described: str) -> Iterator[str]:
    """A profile describes one transport. Of one that does not say which, one that resembles no network is sure to be
    another."""
    from bufferlab.real.engine.registry import engines

    alone = {name for name, engine in engines().items() if not engine.resembles_networks}
    if measured == described or not (described or measured in alone):
        return
    of = f"over {described}" if described else "of Mooncake's transports or of data sheets"
    yield (
        f"this profile was made from measurements {of}, and the runs went over {measured}: it does not describe them; "
        f"bufferlab calibrate makes one from runs over {measured}"
    )


def _other_host(could_use: int | None, described: int | None) -> Iterator[str]:
    if could_use is not None and described is not None and could_use != described:
        yield (
            f"this profile was made on {counted(described, 'processor')}, and the runs could use {could_use}: if that "
            f"is another host, its costs are others; {REMEDY.replace('one that has it', 'this one')}"
        )


def _old(measured: str, made: str) -> Iterator[str]:
    """Of dates that can be read as such; whoever writes another into a file of his own is told nothing."""
    try:
        days = (date.fromisoformat(measured[:DATE_LETTERS]) - date.fromisoformat(made[:DATE_LETTERS])).days
    except ValueError:
        return
    if abs(days) > LONG_DAYS:
        yield (
            f"this profile was made on {made}, {abs(days)} days {'before' if days > 0 else 'after'} the runs "
            f"({measured[:DATE_LETTERS]}): host and software may be others by then; "
            f"{REMEDY.replace('one that has it', 'this host anew')}"
        )


def all_lacks(runs: Sequence[StoredRun], profile: FrozenProfile) -> list[str]:
    """Those of all runs, each once."""
    return list(dict.fromkeys(sentence for run in runs for sentence in lacks(run, profile)))


def _processes(config: Config) -> int:
    """Of a measured run on one host: the router's and one for every rank."""
    return 1 + sum(side.tp * side.instances for side in (config.encode, config.language))
