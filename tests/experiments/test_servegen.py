"""ServeGen's client files: format, replay, fit."""

import json
import math
import tomllib
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.workloads.requests import (
    check_requests,
    count_requests,
    is_random,
    make_columns,
    make_requests,
)
from bufferlab.experiments.workloads.servegen import Service, count_replayed, fitted_mix, read_service, replay
from bufferlab.sim.workload import Columns, joined, load_mix, mix_from

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "servegen-mm-image"
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="ServeGen's client files are not beside the repository")


def write_client(folder: Path, number: int, rows: list[str], dataset: dict[str, dict[str, str]] | None = None) -> None:
    (folder / f"chunk-{number}-trace.csv").write_text("\n".join(rows) + "\n")
    fields = {"text_tokens": "{10: 0.5, 200: 0.5}", "image_tokens": "{100: 1.0}", "image_count": "{1: 0.5, 3: 0.5}"}
    (folder / f"chunk-{number}-dataset.json").write_text(json.dumps({"0": fields} if dataset is None else dataset))


@pytest.fixture
def clients(tmp_path: Path) -> Path:
    """Two clients over three windows of 100 s: one steady, one in the last window only, in bursts, and larger later."""
    small = {"text_tokens": "{5: 1.0}", "image_tokens": "{}", "image_count": "{0: 1.0}"}
    large = {"text_tokens": "{7: 1.0}", "image_tokens": "{50: 0.5, 60: 0.5}", "image_count": "{2: 1.0}"}
    write_client(tmp_path, 2, [f"{start},0.505,1,Gamma,1,1" for start in (0, 100, 200)])
    write_client(tmp_path, 10, ["0,0,0,,0,0", "100,0,0,,0,0", "200,1.0,4,Weibull,0.4,1"], {"0": small, "200": large})
    return tmp_path


def test_a_folder_is_read(clients: Path) -> None:
    service = read_service(clients)
    assert (service.window_s, service.windows) == (100.0, 3)
    assert [client.name for client in service.clients] == ["client-2", "client-10"]  # by number, not by text
    assert service.mean_rate_rps == pytest.approx(0.505 + 1 / 3)
    # ceil(rate · window) gaps fill a window, and the last arrival, at its end, is dropped.
    assert count_replayed(service) == 3 * 50 + 99
    assert count_replayed(service, start_s=250.0) == 50 + 99
    assert count_replayed(service, factor=2.0) == 3 * 100 + 199


def test_a_replay(clients: Path) -> None:
    service = read_service(clients)
    blocks = list(replay(service, seed=1))
    assert [len(block) for block in blocks] == [50, 50, 149]
    columns = joined(blocks)
    assert len(columns) == count_replayed(service)
    assert (np.diff(columns.arrival_s) >= 0).all()
    assert columns.arrival_s[0] >= 0
    assert columns.arrival_s[-1] < 300
    assert columns.clients == ("client-2", "client-10")
    steady = columns.client == 0
    # Long texts come with many images, since one number decides on both; every image is drawn by itself.
    assert set(zip(columns.text_tokens[steady].tolist(), columns.images[steady].tolist(), strict=True)) == {
        (10, 1), (200, 3)
    }  # fmt: skip
    assert (columns.total_tokens[steady] == columns.text_tokens[steady] + 100 * columns.images[steady]).all()
    assert (columns.image_squares[steady] == 10_000 * columns.images[steady]).all()
    bursty = ~steady
    assert (columns.arrival_s[bursty] >= 200).all()
    assert set(columns.total_tokens[bursty].tolist()) == {107, 117, 127}
    assert set(columns.image_tokens_hint[bursty].tolist()) == {100, 110, 120}
    drawn = joined(replay(service, seed=1, draw="independent"))
    pairs = set(
        zip(drawn.text_tokens[drawn.client == 0].tolist(), drawn.images[drawn.client == 0].tolist(), strict=True)
    )
    assert pairs == {(10, 1), (200, 3), (10, 3), (200, 1)}


def test_a_replay_is_the_same_again_and_from_any_window_on(clients: Path) -> None:
    def bytes_of(columns: Columns) -> list[bytes]:
        return [columns.arrival_s.tobytes(), columns.total_tokens.tobytes(), columns.client.tobytes()]

    service = read_service(clients)
    whole = joined(replay(service, seed=1))
    assert bytes_of(whole) == bytes_of(joined(replay(service, seed=1)))
    assert bytes_of(whole) != bytes_of(joined(replay(service, seed=2)))
    assert bytes_of(whole) != bytes_of(joined(replay(service, seed=1, replication=1)))
    last = joined(replay(service, seed=1, start_s=200.0))
    assert last.arrival_s == pytest.approx(whole.arrival_s[100:] - 200.0)
    assert np.array_equal(last.total_tokens, whole.total_tokens[100:])


def test_a_folder_in_a_configuration(clients: Path) -> None:
    config = load("seed-small", [f"workload.file={clients}", "run.replications=2"])
    check_requests(config, "sim")
    assert is_random(config)
    assert count_requests(config) == 249
    requests = list(make_requests(config, 0))
    assert [request.room for request in requests] == list(range(1, 250))
    assert {request.client for request in requests} == {"client-2", "client-10"}
    # The rate scales every client, in the same day.
    faster = load("seed-small", [f"workload.file={clients}", f"workload.rate_rps={(0.505 + 1 / 3) * 2}"])
    assert count_requests(faster) == 499
    assert joined(make_columns(faster, 0)).arrival_s[-1] < 300
    late = load(
        "seed-small",
        [
            f"workload.file={clients}",
            "workload.options.start_s=200.0",
            "workload.requests=10",
            "workload.service_log_sd=0.2",
        ],
    )
    check_requests(late, "sim")
    rows = joined(make_columns(late, 0))
    assert len(rows) == 10
    assert len(set(rows.encode_factor.tolist())) == 10
    # The digest names the files' content.
    before = config.digest()
    (clients / "chunk-2-trace.csv").write_text("0,0.6,1,Gamma,1,1\n100,0.5,1,Gamma,1,1\n200,0.5,1,Gamma,1,1\n")
    assert config.digest() != before
    assert count_requests(config) != 249  # and the files are read anew


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda folder: (folder / "chunk-2-dataset.json").unlink(), "chunk-2-dataset.json, it must be a file that can be"),
        (lambda folder: (folder / "chunk-2-dataset.json").write_text("{}"), "chunk-2-dataset.json: it must be JSON, for"),
        (lambda folder: (folder / "chunk-2-dataset.json").write_text("[1]"), "chunk-2-dataset.json: it must be JSON, for"),
        (lambda folder: write_client(folder, 2, ["0,1,1,Gamma,1,1"] * 2, {"0": {"text_tokens": "{1: 1.0}"}}),
         "chunk-2-dataset.json: it must be JSON"),
        (lambda folder: write_client(folder, 2, ["0,1,1,Gamma,1,1", "100,1,1,Zipf,1,1", "200,0,0,,0,0"]),
         "chunk-2-trace.csv, row 2: it must be timestamp,rate,cv,pattern,shape,scale"),
        (lambda folder: write_client(folder, 2, ["0,1,1,,1,1", "100,0,0,,0,0", "200,0,0,,0,0"]), "trace.csv, row 1"),
        (lambda folder: write_client(folder, 2, ["0,1,1,Gamma,0,1", "100,0,0,,0,0", "200,0,0,,0,0"]), "trace.csv, row 1"),
        (lambda folder: write_client(folder, 2, ["0,-1,1,Gamma,1,1", "100,0,0,,0,0", "200,0,0,,0,0"]), "csv, row 1"),
        (lambda folder: write_client(folder, 2, ["0,nan,1,Gamma,1,1", "100,0,0,,0,0", "200,0,0,,0,0"]), "csv, row 1"),
        (lambda folder: write_client(folder, 2, ["0,1"]), "chunk-2-trace.csv, row 1"),
        (lambda folder: write_client(folder, 2, ["0,1,1,Gamma,1,1"]), "it must have at least two windows"),
        (lambda folder: write_client(folder, 10, ["0,1,1,Gamma,1,1", "50,1,1,Gamma,1,1", "100,0,0,,0,0"]),
         "chunk-10-trace.csv: its timestamps must be those of chunk-2-trace.csv"),
        (lambda folder: [write_client(folder, number, ["0,1,1,Gamma,1,1", "50,1,1,Gamma,1,1", "300,0,0,,0,0"])
                         for number in (2, 10)], "timestamps must start at 0 and rise in equal steps"),
        (lambda folder: [write_client(folder, number, ["0,0,0,,0,0", "50,0,0,,0,0"]) for number in (2, 10)],
         "at least one client must have a rate above 0"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_folder(clients: Path, change: Callable[[Path], Any], sentence: str) -> None:
    change(clients)
    with pytest.raises(UserError, match=sentence) as caught:
        read_service(clients)
    assert "\n" not in str(caught.value)


def test_distributions_are_literals_not_code(clients: Path) -> None:
    trap = clients / "trap"
    code = f"{{1: __import__('pathlib').Path({str(trap)!r}).write_text('x')}}"
    fields = {"text_tokens": code, "image_tokens": "{1: 1.0}", "image_count": "{1: 1.0}"}
    (clients / "chunk-2-dataset.json").write_text(json.dumps({"0": fields}))
    with pytest.raises(UserError, match="each a dictionary of probabilities in a string"):
        read_service(clients)
    assert not trap.exists()


def test_a_folder_without_clients_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must be a file that can be read"):
        load("seed-small", [f"workload.file={tmp_path}"])
    with pytest.raises(UserError, match=r"a folder must hold ServeGen's chunk-N-trace.csv files"):
        read_service(tmp_path)


def test_options_of_a_folder_are_checked(clients: Path) -> None:
    for option, sentence in (
        ("draw=any", "workload.options.draw is 'any', it must be one of comonotone, independent"),
        ("start_s=90000.0", "workload.options.start_s is 90000.0, it must be from 0 to 86399"),
        (
            "begin=1",
            r"workload.options.begin is not an option of this file \(a folder of ServeGen's clients\), which has start_s, draw",
        ),
        ("start_s=5000.0", "workload.rate_rps or workload.options.start_s leaves no requests of the file"),
    ):
        with pytest.raises(UserError, match=f"^{sentence}"):
            check_requests(load("seed-small", [f"workload.file={clients}", f"workload.options.{option}"]), "sim")
    with pytest.raises(UserError, match=r"workload.requests is 250, it must be at most the 249 rows of the file"):
        check_requests(load("seed-small", [f"workload.file={clients}", "workload.requests=250"]), "sim")


# --- the published day ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service() -> Service:
    return read_service(DATA)


def check_lengths(columns: Columns, quantiles: dict[float, float], above: dict[int, float], rel: float) -> None:
    for level, value in quantiles.items():
        assert np.quantile(columns.total_tokens, level) == pytest.approx(value, rel=rel), level
    for size, share in above.items():
        # Four standard errors, and the last digit of what is published.
        error = 4 * math.sqrt(share * (1 - share) / len(columns)) + 0.0005
        assert (columns.total_tokens > size).mean() == pytest.approx(share, abs=error), size


@needs_data
def test_a_slice_of_the_day(service: Service) -> None:
    # 100,000 consecutive requests from 10:00 on: mean 1,409, p99 6,810, 65.4 % above 1024, 0.69 % above 8192. Their
    # lengths are correlated from burst to burst, hence the room.
    columns = joined(replay(service, seed=1, start_s=36_000.0)).first(100_000)
    assert columns.total_tokens.mean() == pytest.approx(1409, rel=0.01)
    check_lengths(columns, {0.5: 1286, 0.9: 2651, 0.95: 3740, 0.99: 6810}, {}, rel=0.02)
    check_lengths(columns, {}, {1024: 0.654, 2048: 0.151, 4096: 0.040, 8192: 0.0069, 16_384: 0.0013}, rel=0)


@needs_data
@pytest.mark.slow
def test_the_whole_day(service: Service) -> None:
    # ServeGen's own generator at its native rate gives 816,589 requests: mean 1,444, p10 326, p50 1,286, p90 2,734, p95
    # 3,777, p99 6,683; 66.5, 16.1, 4.0, 0.64 and 0.14 % above 1024, 2048, 4096, 8192 and 16384.
    columns = joined(replay(service, seed=1))
    assert len(columns) == pytest.approx(816_589, rel=1e-4)
    assert columns.total_tokens.mean() == pytest.approx(1444, abs=4)
    check_lengths(columns, {0.1: 326, 0.5: 1286, 0.9: 2734, 0.95: 3777, 0.99: 6683}, {}, rel=0.005)
    check_lengths(columns, {}, {1024: 0.665, 2048: 0.161, 4096: 0.040, 8192: 0.0064, 16_384: 0.0014}, rel=0)
    # Gaps of cv 1.32; variance over mean of counts 4.2, 9.9, 33 and 275 in 1, 10, 60 and 600 s.
    gaps = np.diff(columns.arrival_s)
    assert gaps.std() / gaps.mean() == pytest.approx(1.32, abs=0.01)
    for window_s, published in ((1, 4.2), (10, 9.9), (60, 33), (600, 275)):
        counts = np.bincount((columns.arrival_s // window_s).astype(int))
        assert len(counts) == 86_400 // window_s
        assert counts.var() / counts.mean() == pytest.approx(published, rel=0.03)
    # Correlation of a length with that of the next request 0.11, the next but one 0.08.
    for lag, published in ((1, 0.11), (2, 0.08)):
        found = np.corrcoef(columns.total_tokens[:-lag], columns.total_tokens[lag:])[0, 1]
        assert found == pytest.approx(published, abs=0.01)
    # Independent fields: p99 5,758, 18.3 % above 2048.
    independent = joined(replay(service, seed=1, draw="independent"))
    assert np.quantile(independent.total_tokens, 0.99) == pytest.approx(5758, rel=0.02)
    assert (independent.total_tokens > 2048).mean() == pytest.approx(0.183, abs=0.003)


@needs_data
def test_the_shipped_preset_is_the_fit_to_these_files(service: Service) -> None:
    shipped = tomllib.loads((files("bufferlab.sim") / "workloads" / "servegen-like.toml").read_text(encoding="utf-8"))
    fitted = fitted_mix(service)
    assert {name: shipped[name] for name in fitted} == fitted


@needs_data
def test_a_fit_has_as_many_clients_as_wanted(service: Service) -> None:
    mix = mix_from({**fitted_mix(service, clients=3), "max_tokens": 10**6}, name="fit")
    assert mix.client_names == ("client-12", "client-5", "client-11", "others")
    assert sum(kind.weight for kind in mix.kinds) == pytest.approx(1, abs=0.001)
    everybody = mix_from({**fitted_mix(service, clients=35), "max_tokens": 10**6}, name="fit")
    assert len(everybody.client_names) == 35
    # Shares of the published top ten: 13.5, 12.9, 12.3, 10.5, 6.8, 6.7, 6.1, 5.4, 4.8, 3.8 %.
    assert [round(100 * kind.weight, 1) for kind in load_mix("servegen-like").kinds[:10]] == pytest.approx(
        [13.5, 12.9, 12.3, 10.5, 6.8, 6.7, 6.1, 5.4, 4.8, 3.8], abs=0.11
    )
