"""timeline.json keeps the rules of the trace-event format and shows what was recorded."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.figures.directory import drawing
from bufferlab.experiments.figures.timeline import Scene, run_timeline, timeline, write_timeline
from bufferlab.experiments.runs.rundir import StoredRun
from bufferlab.experiments.runs.simulate import run_sim
from bufferlab.experiments.runs.spans import in_order
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.recording import Event

SETTINGS = ("workload.requests=40", "run.replications=1", "encode.tp=2", "language.tp=3", "language.instances=2")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    folder = tmp_path_factory.mktemp("timeline") / "run"
    run_sim(load("quickstart", SETTINGS), folder, draw=drawing(plots=False, timeline=True))
    return StoredRun(folder)


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
    for one in events:
        assert one["ph"] in "MXsfC"
        assert isinstance(one["pid"], int)
        assert isinstance(one["tid"], int)
        assert one["pid"] in processes
        assert isinstance(one["name"], str)
        if one["ph"] == "M":
            assert one["args"]
            continue
        assert one["ts"] >= 0
        if one["ph"] == "X":
            assert one["dur"] >= 0
            assert (one["pid"], one["tid"]) in named
            tracks[one["pid"], one["tid"]].append((one["ts"], one["ts"] + one["dur"]))
        elif one["ph"] == "C":
            assert all(isinstance(value, int) for value in one["args"].values())
        else:
            assert one["ph"] not in arrows[one["id"]]
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
    # Every write that ended with a chunk received leads there.
    assert sum(one["ph"] == "f" for one in events) == recorded[Event.WRITE_DONE]


def test_the_tracks_are_named_after_instances_and_ranks(run: StoredRun) -> None:
    events = events_in(run.path / "timeline.json")
    processes = {one["pid"]: one["args"]["name"] for one in events if one["name"] == "process_name"}
    assert list(processes.values()) == ["encode0", "language0", "language1"]
    threads = {(processes[one["pid"]], one["args"]["name"]) for one in events if one["name"] == "thread_name"}
    ranks = {
        (name, f"rank {rank}")
        for name, tp in (("encode0", 2), ("language0", 3), ("language1", 3))
        for rank in range(tp)
    }
    assert ranks <= threads
    assert all(name.split(" waiting")[0].split(" (")[0].startswith("rank ") for _, name in threads)


def test_the_counters_are_those_of_the_pools(run: StoredRun) -> None:
    levels: dict[tuple[int, str], list[int]] = defaultdict(list)
    for one in events_in(run.path / "timeline.json"):
        if one["ph"] == "C":
            levels[one["pid"], one["name"]].append(one["args"]["blocks"])
    assert len(levels) == 2 + 3 + 3
    config = run.config
    most = {"encode": config.blocks(config.encode), "language": config.blocks(config.language)}
    peaks = {
        side: max(max(values) for (pid, _), values in levels.items() if (pid == 1) == (side == "encode"))
        for side in most
    }
    for side, peak in peaks.items():
        assert run.summary[f"{side}_pool"]["peak_occupancy"]["value"] <= peak / most[side] <= 1
    assert all(min(values) == 0 == values[0] for values in levels.values())


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
    assert run_timeline(run, most_records=most_records) == whole


def test_faults_have_a_timeline_too(tmp_path: Path) -> None:
    run_sim(
        load("faults", ["workload.requests=120", "run.replications=1"]),
        tmp_path / "run",
        draw=drawing(plots=False, timeline=True),
    )
    events = events_in(tmp_path / "run/timeline.json")
    assert_rules(events)
    assert any(" fails: " in one["name"] for one in events)


def test_a_run_writes_one_when_asked(bufferlab: Any, folder: Path) -> None:
    assert bufferlab("sim", "seed-resume", "--no-plots", "--out", "without").status == 0
    assert not (folder / "without/timeline.json").exists()
    assert bufferlab("sim", "seed-resume", "--no-plots", "--timeline", "--out", "with").status == 0
    assert_rules(events_in(folder / "with/timeline.json"))


def test_a_validation_shows_both_sides_of_a_case(bufferlab: Any, folder: Path, run: StoredRun) -> None:
    ended = bufferlab("validate", run.path, "--profile", "thor2-400g", "--out", "out", "--timeline")
    assert ended.status == 0
    assert "timelines/case-1.json is quickstart" in ended.out
    events = events_in(folder / "out/timelines/case-1.json")
    assert_rules(events)
    processes = {one["pid"]: one["args"]["name"] for one in events if one["name"] == "process_name"}
    places = {one["pid"]: one["args"]["sort_index"] for one in events if one["name"] == "process_sort_index"}
    names = [processes[pid] for pid in sorted(processes, key=places.__getitem__)]
    instances = ["encode0", "language0", "language1"]
    assert names == [f"{world} {one}" for world in ("simulated", "measured") for one in instances]
    counts = Counter(processes[one["pid"]].split()[0] for one in events if one["ph"] == "X" and "copy" in one["name"])
    assert counts["simulated"] == counts["measured"] > 0
