"""timeline.json keeps the rules of the trace-event format and shows what was recorded."""

from __future__ import annotations

import json
import platform
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.figures.directory import drawing
from bufferlab.experiments.figures.timeline import run_timeline, timeline, write_timeline
from bufferlab.experiments.figures.timeline_drawing import Scene
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.runs.spans import in_order
from bufferlab.experiments.validation.frozen import freeze
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.recording import Event

SETTINGS = ("workload.requests=40", "run.replications=1", "encode.tp=2", "language.tp=3", "language.instances=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    folder = tmp_path_factory.mktemp("timeline") / "run"
    run_sim(load("quickstart", SETTINGS), folder, draw=drawing(plots=False, timeline=True))
    return StoredRun(folder)


ENDS = {
    "offer": (["waits for blocks"], ["has an offer"]),
    "resume": (["waits for blocks"], ["has an offer"]),
    "write": (["has an offer"], ["write room"]),
    "ack": (["write room"], ["waits for blocks", "copy room", "fails"]),
}
"""What arrows lead from, and what to."""


def events_in(path: Path) -> list[dict[str, Any]]:
    content = json.loads(path.read_text())
    assert content["displayTimeUnit"] == "ms"
    found: list[dict[str, Any]] = content["traceEvents"]
    return found


def assert_rules(events: list[dict[str, Any]]) -> None:
    """What every reader of the format relies on."""
    named = {(one["pid"], one["tid"]) for one in events if one["ph"] == "M" and one["name"] == "thread_name"}
    processes = {one["pid"] for one in events if one["ph"] == "M" and one["name"] == "process_name"}
    tracks: dict[tuple[int, int], list[tuple[float, float]]] = defaultdict(list)
    arrows: dict[int, dict[str, dict[str, Any]]] = defaultdict(dict)
    last: dict[tuple[Any, ...], float] = defaultdict(float)
    newest: dict[tuple[int, int], dict[str, Any]] = {}
    for one in events:
        assert one["ph"] in "MXsfC"
        assert isinstance(one["pid"], int)
        assert isinstance(one["tid"], int)
        assert one["pid"] in processes
        assert isinstance(one["name"], str)
        if one["ph"] == "M":
            assert one["args"]
            continue
        track = one["pid"], one["tid"], one["name"] if one["ph"] == "C" else ""
        assert one["ts"] >= last[track] >= 0, "times of a track must not go back"
        last[track] = one["ts"]
        if one["ph"] == "X":
            assert one["dur"] >= 0
            assert (one["pid"], one["tid"]) in named
            tracks[one["pid"], one["tid"]].append((one["ts"], one["ts"] + one["dur"]))
            newest[one["pid"], one["tid"]] = one
        elif one["ph"] == "C":
            (value,) = one["args"].values()
            assert value >= 0
        else:
            assert one["ph"] not in arrows[one["id"]]
            # Readers attach an arrow to what began last on its track.
            holder = newest[one["pid"], one["tid"]]
            assert any(word in holder["name"] for word in ENDS[one["name"]][one["ph"] == "f"]), (one, holder)
            assert holder["ts"] <= one["ts"] <= holder["ts"] + holder["dur"] + 1e-6
            arrows[one["id"]][one["ph"]] = one
    assert set(tracks) == named
    for slices in tracks.values():
        open_until: list[float] = []
        for begin, end in sorted(slices, key=lambda one: (one[0], -one[1])):
            while open_until and open_until[-1] <= begin + 1e-6:
                open_until.pop()
            assert not open_until or end <= open_until[-1] + 1e-6, "slices of a track must nest"
            open_until.append(end)
    assert arrows
    for pair in arrows.values():
        assert set(pair) == {"s", "f"}
        assert pair["s"]["name"] == pair["f"]["name"]
        assert pair["s"]["ts"] <= pair["f"]["ts"]
        assert pair["f"]["bp"] == "e"
        for end in pair.values():
            slices = tracks[end["pid"], end["tid"]]
            assert any(begin - 1e-6 <= end["ts"] <= over + 1e-6 for begin, over in slices)


def test_the_file_keeps_the_rules_of_the_format(run: StoredRun) -> None:
    assert_rules(events_in(run.path / "timeline.json"))


def test_every_write_pass_and_copy_is_there(run: StoredRun) -> None:
    events = events_in(run.path / "timeline.json")
    slices = [one for one in events if one["ph"] == "X"]
    recorded = Counter(record.event for _, record in run.records())
    writes = [one for one in slices if one["name"].startswith("write ")]
    assert len(writes) == recorded[Event.WRITE_DONE]
    assert sum(one["args"]["bytes"] for one in writes) == sum(
        record.bytes for _, record in run.records() if record.event is Event.WRITE_DONE
    )
    passes = [one for one in slices if one["name"].startswith("encode ")]
    assert sum(len(one["args"]["rooms"]) for one in passes) == recorded[Event.ENCODED]
    assert sum(one["name"].startswith("copy ") for one in slices) == recorded[Event.DELIVERED]
    assert sum("waits for blocks" in one["name"] for one in slices) == recorded[Event.OFFERED] + recorded[Event.RESUMED]
    arrows = Counter(one["name"] for one in events if one["ph"] == "f")
    # Every write that ended with a chunk received leads there, and comes from an offer, which comes from its blocks.
    assert arrows["ack"] == arrows["write"] == recorded[Event.WRITE_DONE]
    assert (arrows["offer"], arrows["resume"]) == (recorded[Event.OFFERED], recorded[Event.RESUMED])
    assert arrows["resume"] > 0


def test_every_prefill_is_in_a_pass_of_the_length_that_the_services_say(run: StoredRun) -> None:
    slices = [one for one in events_in(run.path / "timeline.json") if one["ph"] == "X"]
    passes = [one for one in slices if one["name"].startswith("prefill ")]
    recorded = Counter(record.event for _, record in run.records())
    assert sum(len(one["args"]["rooms"]) for one in passes) == recorded[Event.PREFILLED] > 0
    services = run.config.scenario().services
    tokens = {record.room: record.tokens for _, record in run.records() if record.event is Event.PREFILLED}
    for one in passes:
        expected_s = services.prefill_base_s + sum(services.prefill_s(tokens[room]) for room in one["args"]["rooms"])
        assert one["dur"] == pytest.approx(expected_s * 1e6, abs=0.01)


def test_passes_of_limited_batches_are_told_apart(tmp_path: Path) -> None:
    limit = 4096
    settings = ("workload.requests=80", "workload.rate_rps=40", "run.replications=1")
    run_sim(
        load("quickstart", (*settings, f"language.batch_tokens={limit}")),
        tmp_path / "run",
        draw=drawing(plots=False, timeline=True),
    )
    run = StoredRun(tmp_path / "run")
    events = events_in(run.path / "timeline.json")
    assert_rules(events)
    services = run.config.scenario().services
    tokens = {record.room: record.tokens for _, record in run.records() if record.event is Event.PREFILLED}
    passes = [one for one in events if one["ph"] == "X" and one["name"].startswith("prefill ")]
    assert any(len(one["args"]["rooms"]) > 1 for one in passes)
    for one in passes:
        rooms = one["args"]["rooms"]
        assert len(rooms) == 1 or one["args"]["tokens"] <= limit
        expected_s = services.prefill_base_s + sum(services.prefill_s(tokens[room]) for room in rooms)
        assert one["dur"] == pytest.approx(expected_s * 1e6, abs=0.01)
    assert any("waits for the prefill" in one["name"] for one in events)


def test_every_request_has_a_slice_from_its_arrival_to_its_first_token(run: StoredRun) -> None:
    events = events_in(run.path / "timeline.json")
    shown = {one["args"]["room"]: one for one in events if one["ph"] == "X" and one["cat"] == "requests"}
    rows = run.requests().set_index("room")
    ends = {record.room: record.time_s for _, record in run.records() if record.event is Event.PREFILLED}
    assert set(shown) == set(rows.index)
    for room, one in shown.items():
        row = rows.loc[room]
        assert one["ts"] == pytest.approx(row["arrival_s"] * 1e6, abs=0.01)
        assert one["ts"] + one["dur"] == pytest.approx(ends[room] * 1e6, abs=0.01)
        assert (one["args"]["tokens"], one["args"]["chunks"]) == (row["total_tokens"], row["chunks"])
        assert one["args"]["outcome"] == "delivered"


def test_the_file_tells_what_it_shows_and_how_to_open_it(run: StoredRun) -> None:
    content = json.loads((run.path / "timeline.json").read_text())
    about = content["otherData"]
    (told,) = about["runs"]
    assert (told["name"], told["kind"], told["transport"]) == ("quickstart", "simulated", run.transport)
    assert told["config"] == run.config.tree()
    assert told["fingerprint"] == run.config.digest()
    assert told["versions"] == run.versions
    assert {"python", "bufferlab"} <= set(told["versions"])
    assert "ui.perfetto.dev" in about["open_with"]
    assert (about["requests_shown"], about["requests"]) == (40, 40)
    # Perfetto shows nothing of otherData, so a slice has it too.
    (slice_about,) = [one for one in content["traceEvents"] if one.get("cat") == "about"]
    assert slice_about["name"] == "quickstart simulated"
    assert slice_about["args"] == told
    assert slice_about["ts"] == 0


def test_the_tracks_are_named_after_instances_and_ranks(run: StoredRun) -> None:
    events = events_in(run.path / "timeline.json")
    processes = {one["pid"]: one["args"]["name"] for one in events if one["name"] == "process_name"}
    assert list(processes.values()) == ["all requests", "encode0", "language0", "language1"]
    threads = {(processes[one["pid"]], one["args"]["name"]) for one in events if one["name"] == "thread_name"}
    lanes = {"encode": ("encoder", "offers held", "writer"), "language": ("copies", "prefill", "waiting")}
    ranks = {
        (name, f"rank {rank} {lane}")
        for name, tp in (("encode0", 2), ("language0", 3), ("language1", 3))
        for rank in range(tp)
        for lane in lanes[name[:-1]]
    }
    assert ranks <= threads
    assert {name for owner, name in threads if owner == "all requests"} >= {"about", "requests"}
    assert all(name.startswith("rank ") for owner, name in threads if owner != "all requests")


def test_transfer_workers_have_lanes_of_their_own(tmp_path: Path) -> None:
    run_sim(
        load("quickstart", ("workload.requests=20", "run.replications=1", "language.instances=2",
                            "encode.transfer_workers=2")),
        tmp_path / "run",
        draw=drawing(plots=False, timeline=True),
    )  # fmt: skip
    events = events_in(tmp_path / "run/timeline.json")
    threads = {one["args"]["name"] for one in events if one["name"] == "thread_name"}
    assert {"rank 0 writer 0", "rank 0 writer 1"} <= threads
    assert "rank 0 writer" not in threads


def test_the_counters_are_those_of_the_pools(run: StoredRun) -> None:
    levels: dict[tuple[int, str], list[int]] = defaultdict(list)
    for one in events_in(run.path / "timeline.json"):
        if one["ph"] == "C" and "blocks" in one["args"]:
            levels[one["pid"], one["name"]].append(one["args"]["blocks"])
    assert len(levels) == 2 + 3 + 3
    config = run.config
    most = {"encode": config.blocks(config.encode), "language": config.blocks(config.language)}
    peaks = {
        side: max(max(values) for (pid, _), values in levels.items() if (pid == 2) == (side == "encode"))
        for side in most
    }
    for side, peak in peaks.items():
        assert run.summary[f"{side}_pool"]["peak_occupancy"]["value"] <= peak / most[side] <= 1
    assert all(min(values) == 0 == values[0] for values in levels.values())
    assert {name.split(" pool of ")[1] for (pid, name) in levels if pid == 2} == {f"{most['encode']}"}


def test_the_adapters_carry_what_the_writes_do(run: StoredRun) -> None:
    events = events_in(run.path / "timeline.json")
    writes = [one for one in events if one["ph"] == "X" and one["name"].startswith("write ")]
    moved: dict[bool, float] = defaultdict(float)
    under_way: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    for one in events:
        if one["ph"] == "C" and one["name"].split()[-1] in ("in", "out"):
            under_way[one["pid"], one["name"]].append((one["ts"], *one["args"].values()))
    for (_, name), levels in under_way.items():
        assert levels[-1][1] == 0
        if "adapter" in name:  # MB/s times microseconds are bytes
            moved["out" in name] += sum(value * (after[0] - at) for (at, value), after in pairwise(levels))
    total = sum(one["args"]["bytes"] for one in writes)
    assert moved == {True: pytest.approx(total, rel=1e-4), False: pytest.approx(total, rel=1e-4)}
    most = max(value for (_, name), levels in under_way.items() if "writes" in name for _, value in levels)
    assert most >= 1


def test_a_long_run_shows_its_first_requests(run: StoredRun, tmp_path: Path) -> None:
    whole = run_timeline(run)
    assert (whole.shown, whole.requests, whole.note) == (40, 40, "")
    part = run_timeline(run, most_records=400)
    assert 1 <= part.shown < 40
    assert part.note == f"the timeline shows the first {part.shown} of 40 requests, for the size of its file"
    rooms = {one["args"]["room"] for one in part.events if one["ph"] == "X" and "room" in one["args"]}
    arrived = run.requests().sort_values("arrival_s")["room"].tolist()
    assert rooms == set(arrived[: part.shown])
    write_timeline(part, tmp_path / "part.json")
    assert_rules(events_in(tmp_path / "part.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["part.json"]


@pytest.mark.parametrize("most_records", [400, 100_000])
def test_what_comes_after_the_shown_requests_is_not_read_and_not_missed(run: StoredRun, most_records: int) -> None:
    rows = run.requests().sort_values(["arrival_s", "room"])
    requests = dict(zip(rows["room"].tolist(), rows["arrival_s"].tolist(), strict=True))
    every = in_order(record for _, record in run.records())
    whole = timeline([Scene("", every, run.config.scenario(), requests)], most_records=most_records)
    made = run_timeline(run, most_records=most_records)
    own = [one for one in made.events if one.get("cat") == "about"]
    assert [one for one in made.events if one not in own and one.get("tid") == 0] == [
        one for one in whole.events if one.get("tid") == 0
    ]
    assert slices_of(made.events) == slices_of(whole.events)


def test_faults_have_a_timeline_too(tmp_path: Path) -> None:
    run_sim(
        load("faults", ["workload.requests=120", "run.replications=1"]),
        tmp_path / "run",
        draw=drawing(plots=False, timeline=True),
    )
    events = events_in(tmp_path / "run/timeline.json")
    assert_rules(events)
    assert any(" fails: " in one["name"] for one in events)


def slices_of(events: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """All but the one that tells of the run; a track's number depends on whether that is there."""
    return [
        (one["pid"], one["ts"], one["dur"], one["name"]) for one in events if one["ph"] == "X" and one["cat"] != "about"
    ]


def test_a_run_writes_one_when_asked(bufferlab: Any, folder: Path) -> None:
    assert bufferlab("sim", "seed-resume", "--no-plots", "--out", "without").status == 0
    assert not (folder / "without/timeline.json").exists()
    assert bufferlab("sim", "seed-resume", "--no-plots", "--timeline", "--out", "with").status == 0
    assert_rules(events_in(folder / "with/timeline.json"))


def test_it_is_said_how_to_open_it_and_of_two_runs_the_measured_one_is_below(bufferlab: Any, folder: Path) -> None:
    for name, tokens in (("first", 1024), ("second", 512)):
        ended = bufferlab(
            "sim", "seed-resume", "--no-plots", "--timeline", "--out", name, "--set", f"protocol.sizing.tokens={tokens}"
        )
        assert ended.status == 0
        assert f"{name}/timeline.json; drag the file onto https://ui.perfetto.dev" in ended.out
    summary = json.loads((folder / "first/summary.json").read_text())
    (folder / "first/summary.json").write_text(json.dumps(summary | {"kind": "real"}))
    config = (folder / "first/config.toml").read_text()
    (folder / "first/config.toml").write_text(config.replace('transport = "tcp"', 'transport = "socket"'))
    ended = bufferlab("compare", "first", "second", "--timeline", "both.json")
    assert ended.status == 1  # they do differ
    assert "timeline: both.json; drag the file onto https://ui.perfetto.dev" in ended.out
    # Times that are drawn below each other invite to compare them, so it is said where they cannot agree.
    assert "this profile was made from measurements over tcp, and the runs went over socket" in ended.out
    assert "first was simulated" not in ended.out
    assert "second was simulated with tcp-loopback: " in ended.out
    events = events_in(folder / "both.json")
    assert_rules(events)
    processes = {one["pid"]: one["args"]["name"] for one in events if one["name"] == "process_name"}
    assert list(processes.values()) == ["all requests", "encode0", "language0"]
    tracks = {one["tid"]: one["args"]["name"] for one in events if one["name"] == "thread_name"}
    names = [tracks[tid] for tid in sorted(tracks)]
    for lane in ("about", "requests", "rank 0 encoder", "rank 0 writer", "rank 0 copies"):
        assert names.index(f"measured {lane}") == names.index(f"simulated {lane}") + 1
    counters = {one["name"] for one in events if one["ph"] == "C" and one["pid"] == 3}
    assert {"rank 0 pool of 64 (1 simulated)", "rank 0 pool of 64 (2 measured)"} <= counters
    # Once more over itself, but never over anything else, and only where a file can be.
    assert bufferlab("compare", "first", "second", "--timeline", "both.json").status == 1
    (folder / "mine.json").write_text("{}")
    for name, why in (
        ("mine.json", "something else than a timeline"),
        ("x.txt", ".json file"),
        ("first", ".json file"),
    ):
        refused = bufferlab("compare", "first", "second", "--timeline", name)
        assert refused.status == 2
        assert why in refused.err
    assert (folder / "mine.json").read_text() == "{}"


def test_a_validation_shows_both_sides_of_a_case(bufferlab: Any, folder: Path, run: StoredRun) -> None:
    ended = bufferlab("validate", run.path, "--profile", "thor2-400g", "--out", "out", "--timeline")
    assert ended.status == 0
    assert "timelines/case-1.json is quickstart" in ended.out
    events = events_in(folder / "out/timelines/case-1.json")
    assert_rules(events)
    assert "timelines: drag the file onto https://ui.perfetto.dev" in ended.out
    processes = {one["pid"]: one["args"]["name"] for one in events if one["name"] == "process_name"}
    places = {one["pid"]: one["args"]["sort_index"] for one in events if one["name"] == "process_sort_index"}
    names = [processes[pid] for pid in sorted(processes, key=places.__getitem__)]
    assert names == ["all requests", "encode0", "language0", "language1"]
    tracks = {one["tid"]: one["args"]["name"] for one in events if one["name"] == "thread_name"}
    counts = Counter(tracks[one["tid"]].split()[0] for one in events if one["ph"] == "X" and "copy" in one["name"])
    assert counts["simulated"] == counts["measured"] > 0
    _rows_are_beside_each_other(tracks, events)
    # Each side says of itself what it is: the prediction is of the profile that was given, not of the run's own.
    told = {
        one["shown_as"]: one
        for one in json.loads((folder / "out/timelines/case-1.json").read_text())["otherData"]["runs"]
    }
    simulated, measured = told["simulated"], told["measured"]
    assert run.config.link.profile != "thor2-400g"
    assert simulated["config"]["link"]["profile"] == simulated["transport"] == "thor2-400g"
    assert simulated["profile"]["sha256"] == freeze("thor2-400g").digest
    assert (measured["config"], measured["transport"]) == (run.config.tree(), run.transport)
    assert measured["versions"] == run.versions != {}
    assert simulated["versions"]["python"] == platform.python_version()
    slices = [one for one in events if one["ph"] == "X"]
    abouts = {tracks[one["tid"]]: one["args"] for one in slices if "config" in one["args"]}
    assert abouts["simulated about"]["config"]["link"]["profile"] == "thor2-400g"
    assert abouts["measured about"]["transport"] == run.transport


def _rows_are_beside_each_other(tracks: dict[int, str], events: list[dict[str, Any]]) -> None:
    """Of requests that overlap, the simulated one is directly above the same one as it was measured."""
    names = [tracks[tid] for tid in sorted(tracks)]
    rows = [name for name in names if name.removeprefix("simulated ").startswith("requests")]
    assert len(rows) > 1, "some overlap, or nothing is shown"
    for name in rows:
        assert names[names.index(name) + 1] == name.replace("simulated", "measured")
    where: dict[str, dict[int, str]] = {"simulated": {}, "measured": {}}
    for one in events:
        world, _, lane = tracks[one["tid"]].partition(" ") if one.get("ph") == "X" else ("", "", "")
        if lane.startswith("requests"):
            where[world][one["args"]["room"]] = lane
    assert where["simulated"] == where["measured"] != {}
