"""``bl.simulate`` and ``bl.measure``: one configuration, run; and what a run is to its user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, get_args

from bufferlab.api.configuration import Config, ConfigLike, load, load_with
from bufferlab.api.drawing import Colour, Plots, next_colours, on_axes, on_axes_of_times
from bufferlab.api.finished import Kept, code_digest, is_the_very_same
from bufferlab.api.overrides import Overrides, Sections, listed, plain
from bufferlab.api.results import PathLike, Place, Result, bar_of, told
from bufferlab.api.speech import must_be, one_of, spoken
from bufferlab.experiments.errors import RunFaultedError, UserError
from bufferlab.experiments.runs.rundir import StoredRun, claim_target
from bufferlab.experiments.runs.simulate import run_sim

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

Quantity = Literal["latency_s", "ttft_s", "transfer_s"]
"""Arrival to delivered; arrival to the end of the prefill; embedding ready to delivered."""


@spoken
def simulate(
    config: ConfigLike,
    overrides: Overrides | None = None,
    *,
    seed: int | None = None,
    replications: int | None = None,
    out: PathLike | None = None,
    force: bool = False,
    events: bool = True,
    plots: bool = True,
    timeline: bool = False,
    progress: bool = False,
    **sections: Unpack[Sections],
) -> Run:
    """Simulate a configuration, with its replications, as ``bufferlab sim`` does: the same seed gives the same bytes.

    ``config``, ``overrides`` and ``sections`` are as in ``bufferlab.load``; ``seed`` and ``replications`` stand for
    ``run.seed`` and ``run.replications``. ``out``: the run directory to write, with pictures unless ``plots`` is false
    and with a timeline.json where ``timeline`` is true. A finished run of the very same configuration, inputs and code
    that lies there with all of that is returned as it is, so that a cell can be run twice; ``force`` replaces it, and
    any other finished run. Without ``out`` the run lies in a temporary folder that goes with the result. ``events``:
    whether every event is kept, of which the pools are drawn and which pairing needs. ``progress`` shows a bar.

    Raises UserError before anything runs for what is not allowed, RunFailedError if the run breaks. A violation of the
    protocol's invariants is a warning, and is counted in ``content["invariant_violations"]``.
    """
    asked = asked_for(config, overrides, seed, replications, sections)
    if timeline and not events:
        raise UserError(TIMELINE_NEEDS_EVENTS)
    from bufferlab.experiments.figures.directory import drawing
    from bufferlab.experiments.workloads.requests import count_requests

    if out is None:
        refuse_without_out(force=force, timeline=timeline)
    place = Place(out, f"{asked.run.name}-sim-{asked.digest()}")
    code = "" if out is None else code_digest()
    if out is not None and not force:
        kept = Kept(events=events, plots=plots, timeline=timeline)
        if is_the_very_same(place.path, asked, code, kept):
            return Run(place, asked)
    with (
        claim_target(asked, "sim", place.path, force=force) as claim,
        bar_of("sim", count_requests(asked) * asked.run.replications, "requests", progress=progress) as shown,
    ):
        run_sim(
            asked,
            claim,
            events=events,
            draw=None if out is None else drawing(plots=plots, timeline=timeline),
            progress=shown.add,
            notice=told,
            code=code,
        )
    return Run(place, asked)


@spoken
def measure(
    config: ConfigLike,
    overrides: Overrides | None = None,
    *,
    seed: int | None = None,
    transport: str | None = None,
    device: str | None = None,
    out: PathLike | None = None,
    force: bool = False,
    events: bool = True,
    plots: bool = True,
    timeline: bool = False,
    progress: bool = False,
    **sections: Unpack[Sections],
) -> Run:
    """Run a configuration between real processes on this host, as ``bufferlab real`` does.

    ``transport`` and ``device`` stand for ``real.transport`` and ``real.device``; all else is as in
    ``bufferlab.simulate``, but that a finished run in ``out`` is only replaced, where ``force`` is true: no two
    measurements are the same. A file of requests is measured once unless ``run.replications`` is given.

    Raises UserError before anything runs for what is not allowed or where the backend is not installed
    (``bufferlab doctor`` says what mends it), RunFailedError if there is nothing to show, and RunFaultedError when the
    run met what nobody planned: its ``run`` has what was done all the same.
    """
    from bufferlab.experiments.options import transports_with_devices, unused_device

    more = {"run.seed": seed, "real.transport": transport, "real.device": device}
    given = tuple((path, plain(value)) for path, value in more.items() if value is not None)
    asked = load_with(config, (*listed(overrides, sections), *given))
    if timeline and not events:
        raise UserError(TIMELINE_NEEDS_EVENTS)
    if out is None:
        refuse_without_out(force=force, timeline=timeline)
    measured = asked.measured()
    if wrong := unused_device(
        "real.device" if device is None else "device", measured.real.device, measured.real.transport
    ):
        raise UserError(f"{wrong}; give transport {transports_with_devices()}, or leave the device out")
    from bufferlab.experiments.figures.directory import drawing
    from bufferlab.experiments.runs.measure import run_measured
    from bufferlab.experiments.workloads.requests import count_requests

    place = Place(out, f"{measured.run.name}-real-{measured.digest()}")
    with (
        claim_target(measured, "real", place.path, force=force) as claim,
        bar_of("real", count_requests(measured) * measured.run.replications, "requests", progress=progress) as shown,
    ):
        try:
            run_measured(
                measured,
                claim,
                events=events,
                draw=None if out is None else drawing(plots=plots, timeline=timeline),
                progress=shown.add,
                notice=told,
            )
        except RunFaultedError as error:
            error.run = Run(place)
            raise
    return Run(place)


TIMELINE_NEEDS_EVENTS = "timeline is drawn of the events, which events=False does not keep; give one of the two"


def asked_for(
    config: ConfigLike,
    overrides: Overrides | None,
    seed: int | None,
    replications: int | None,
    sections: Mapping[str, Any],
) -> Config:
    """The configuration that a function is to run."""
    more = {"run.seed": seed, "run.replications": replications}
    given = tuple((path, plain(value)) for path, value in more.items() if value is not None)
    return load_with(config, (*listed(overrides, sections), *given))


def refuse_without_out(**options: bool) -> None:
    """Raise UserError for what is about a folder where none is named."""
    given = [name for name, value in options.items() if value]
    if given:
        raise UserError(f"{' and '.join(given)} {'has' if len(given) == 1 else 'have'} no effect without out")


def stamp_of(run: Path) -> tuple[int, int, int] | None:
    """What tells the figures of one run in a folder from those of another one that took its place; None for none."""
    try:
        found = (run / "summary.json").stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


class Run(Result):
    """A finished run, simulated or measured.

    A notebook shows what came of it in words; ``summary``, ``requests`` and ``events`` are tables, ``plot`` draws.
    """

    def __init__(self, place: Place, config: Config | None = None) -> None:
        self._read = StoredRun(place.path)
        self._stamp = stamp_of(place.path)
        self._config = config
        super().__init__(place, self._read.summary)

    @property
    def path(self) -> Path:
        """Its folder, with the files that the command writes; without ``out`` a temporary one, which goes with this
        object. Raises UserError if another run was put there since, or the folder was removed."""
        self._must_be_there()
        return super().path

    def _must_be_there(self) -> None:
        if stamp_of(self._place.path) != self._stamp:
            raise UserError(
                f"the run in {str(self._place.path)!r} is no longer there: it was replaced or removed since; bl.read "
                f"reads what is there now"
            )

    @property
    def _stored(self) -> StoredRun:
        """Its tables, which are read when they are asked for and must still be its own then."""
        self._must_be_there()
        return self._read

    @property
    def kind(self) -> str:  # a Literal here would keep notebooks from completing anything of a run
        """``sim`` for a simulated run, ``real`` for a measured one."""
        return self._read.kind

    @cached_property
    def config(self) -> Config:
        """What was run, with every default written out."""
        return self._config if self._config is not None else load(self.path)

    @cached_property
    def summary(self) -> pd.DataFrame:
        """The figures, a row each: how many requests there were, then times, throughput, use of pools and stages.

        The index ``figure`` is the path in summary.json, whose ending is the unit: ``latency_s.p99`` in seconds,
        ``throughput_rps`` in requests a second; rates and fractions are from 0 to 1. Columns: ``value``, and ``low``
        and ``high``, the 95 % interval (NaN where there is none).
        """
        import pandas as pd

        from bufferlab.experiments.runs.estimates import FIGURES

        rows: dict[str, tuple[float | None, float | None, float | None]] = {
            f"requests.{name}": (count, None, None) for name, count in self.content["requests"].items()
        }
        for figure in FIGURES:
            found: Any = self.content
            for name in figure.path:
                found = found[name]
            rows[figure.name] = found["value"], found["low"], found["high"]
        columns = ["value", "low", "high"]
        table = pd.DataFrame.from_dict(rows, orient="index", columns=columns, dtype=float)
        return table.rename_axis("figure")

    @property
    def table(self) -> pd.DataFrame:
        """The same as ``summary``."""
        return self.summary

    @cached_property
    def requests(self) -> pd.DataFrame:
        """requests.parquet: a row for each request of each replication.

        Columns: ``replication``, ``room`` (its number from 1), ``arrival_s``, ``encoded_s``, ``first_chunk_s``,
        ``delivered_s``, ``released_s`` and ``prefilled_s`` (seconds since the start; NaN for what never happened),
        ``total_tokens``, ``text_tokens``, ``first_allocation_tokens``, ``images``, ``chunks``, ``status``, ``failure``.
        """
        return self._stored.requests()

    def _called(self) -> str:
        return f"the run {self.config.run.name!r}"

    @cached_property
    @spoken
    def events(self) -> pd.DataFrame:
        """events.parquet: a row for each event of each rank, in the order recorded.

        Columns: ``replication``, ``time_s``, ``side`` (encode or language), ``instance``, ``rank``, ``room``,
        ``event``, ``status``, ``tokens``, ``bytes``, ``detail``. docs/events.md says of every event who records it and
        when, and what its ``tokens`` and ``bytes`` are: ``resumed`` comes once for each resume and has the tokens that
        had been received, ``allocated`` has what fits into all blocks that the room then holds. Raises UserError if the
        run did not keep them.
        """
        return self._stored.events()

    @property
    def plot(self) -> RunPlots:
        """Its pictures."""
        return RunPlots(self, self._stored)

    @spoken
    def timeline(self, out: PathLike, *, replication: int = 0) -> Path:
        """Write a trace of one replication that Perfetto opens, as ``--timeline`` does, and return where it is.

        ``out``: the file, such as ``timeline.json``; folders above it are made, as for every ``out``. Raises UserError
        if the run kept no events.
        """
        from bufferlab.experiments.figures.timeline import run_timeline, write_timeline
        from bufferlab.experiments.files import Claim, disk_errors

        must_be("out", out, (str, Path), "a path")
        must_be_replication(self._stored, replication)
        made = run_timeline(self._stored, replication)
        with Claim(out, "out") as claim, disk_errors(claim.target):
            write_timeline(made, claim.target)
        if made.note:
            told(made.note)
        return claim.target

    def __repr__(self) -> str:
        from bufferlab.experiments.units import format_duration

        requests, p99 = self.content["requests"], self.content["latency_s"]["p99"]["value"]
        world = "simulated" if self.kind == "sim" else "measured"
        late = "" if p99 is None else f", p99 latency {format_duration(p99)}"
        wrong = self.content["invariant_violations"]
        said = f"{requests['succeeded']} of {requests['offered']} requests served{late}"
        broken = f", {wrong} INVARIANT VIOLATIONS" if wrong else ""
        return f"Run({self.config.run.name!r}, {world} over {self._read.transport}: {said}{broken})"


def must_be_replication(run: StoredRun, replication: object) -> None:
    """Raise UserError for a replication that the run does not have."""
    count = run.config.run.replications
    if isinstance(replication, bool) or not isinstance(replication, int) or not 0 <= replication < count:
        only = "0, the only one" if count == 1 else f"a number from 0 to {count - 1}"
        raise UserError(f"replication is {replication!r}, it must be {only}")


LANES = ("requests", "encoder", "writer", "copies", "prefill", "waiting")
"""What a picture of a timeline shows unless it is told otherwise."""


class RunPlots(Plots):
    """Pictures of one run. Each is drawn on ``ax`` where that is given, in its next colour, and returns the axes."""

    def __init__(self, owner: Run, run: StoredRun) -> None:
        self._owner = owner  # with which its files would go
        self._run = run

    def ecdf(
        self,
        ax: Axes | None = None,
        *,
        quantity: Quantity = "latency_s",
        label: str = "",
        color: Colour | None = None,
    ) -> Axes:
        """The share of the delivered requests within a time.

        Over replications it is the mean of their shares, with its 95 % band. So at 50 % lies the median of all
        requests, which is not the mean of the replications' medians that ``summary`` has.

        The axis is in seconds. ``label``: what a key calls the curve; ``color``: the next one of the axes unless given.
        """
        from bufferlab.experiments.figures.sweeps import distributions, draw_body

        one_of("quantity", quantity, get_args(Quantity))
        curves = distributions([self._run], labels=[label], quantity=quantity)
        return on_axes_of_times(ax, draw_body, curves, [color], quantity)

    def tail(
        self,
        ax: Axes | None = None,
        *,
        quantity: Quantity = "latency_s",
        label: str = "",
        color: Colour | None = None,
    ) -> Axes:
        """The share of the delivered requests beyond a time, which shows the slow ones; as ``ecdf`` otherwise."""
        from bufferlab.experiments.figures.sweeps import distributions, draw_tail

        one_of("quantity", quantity, get_args(Quantity))
        curves = distributions([self._run], labels=[label], quantity=quantity)
        return on_axes_of_times(ax, draw_tail, curves, [color], quantity)

    def pools(
        self,
        ax: Axes | None = None,
        *,
        side: Literal["language", "encode"] = "language",
        replication: int | None = 0,
        label: str = "",
        color: Colour | None = None,
    ) -> Axes:
        """Blocks held in the course of time (seconds) in percent of a side's pool, all its ranks together.

        ``replication`` None draws all of them: the mean, and a band from the lowest to the highest. Of a run of many
        changes it is the mean of each short stretch of time, with such a band. ``label`` and ``color`` as in ``ecdf``.
        Raises UserError if the run kept no events.
        """
        from bufferlab.experiments.figures.runs import draw_pool
        from bufferlab.protocol.topology import Side

        one_of("side", side, [one.value for one in Side])
        if replication is not None:
            must_be_replication(self._run, replication)

        def draw(axes: Axes) -> None:
            (colour,) = next_colours(axes, [color])
            draw_pool(axes, self._run, Side(side), replication=replication, colour=colour, label=label)

        return on_axes(ax, draw, key=False)

    def timeline(
        self, ax: Axes | None = None, *, lanes: Sequence[str] = LANES, arrows: bool = True, replication: int = 0
    ) -> Axes:
        """What the ranks did and waited for, for a run of a few requests; time in seconds.

        ``lanes``: of requests, encoder, offers held, writer, copies, prefill and waiting. ``arrows`` lead from what was
        granted, offered, written or acknowledged to what that let go on. ``Run.timeline`` writes all of it for
        Perfetto, of runs of any length. Raises UserError if the run kept no events, ValueError if there is more than
        can be read.
        """
        from bufferlab.experiments.figures.timeline import run_timeline
        from bufferlab.experiments.figures.timeline_picture import draw_timeline

        must_be_replication(self._run, replication)
        made = run_timeline(self._run, replication)
        return on_axes(ax, lambda axes: draw_timeline(axes, made, lanes=lanes, arrows=arrows), key=False)
