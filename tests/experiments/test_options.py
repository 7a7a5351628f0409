"""An option without effect is refused in one sentence that says why and what would give it one."""

from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.commands import real

AT = ("--bootstrap", "127.0.0.1:7077")
RANK = ("real", "--role", "encode", "--rank", "0", *AT)
WITHOUT_OUT = "--force has no effect without --out"
ONE_DEVICE = "only rdma has devices"
SEARCH = "it is for a search, which has none of --list, --grid, --random and --replay"
REPLAY = ("check", "--replay", "schedule.json")
DASK = ("sweep", "quickstart", "--executor", "dask", "--address", "127.0.0.1:9")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sim", "seed-small", "--force"), WITHOUT_OUT),
        (("real", "seed-small", "--force"), WITHOUT_OUT),
        (("workload", "mixed", "--force"), "--force has no effect without --out or --template"),
        (("real", "seed-small", "--device", "mlx5_0"), f"--device is 'mlx5_0', which has no effect with the transport "
         f"tcp: {ONE_DEVICE}; give --transport rdma"),
        (("real", "seed-small", "--set", "real.device=mlx5_0"), f"real.device is 'mlx5_0', which has no effect with "
         f"the transport tcp: {ONE_DEVICE}"),
        (("real", "device.toml"), "real.device is 'mlx5_0', which has no effect"),
        (("real", "device.toml", *AT), "real.device is 'mlx5_0', which has no effect"),
        ((*RANK, "seed-small", "--device", "mlx5_0"), f"--device is 'mlx5_0', which has no effect with the transport "
         f"tcp: {ONE_DEVICE}"),
        ((*RANK, "--no-plots"), "--no-plots has no effect with --role: give it to the coordinator"),
        ((*RANK, "--timeline"), "--timeline has no effect with --role: give it to the coordinator"),
        ((*RANK, "--timeline", "--no-plots"), "--no-plots and --timeline have no effect with --role"),
        (("real", "seed-small", *AT, "--expose"), "--expose has no effect with protocol.wire = 'extended'"),
        (("bench-link", "--device", "mlx5_0"), f"--device is 'mlx5_0', which has no effect with the transport tcp: "
         f"{ONE_DEVICE}"),
        (("workload", "mixed", "--out", "new.csv", "--buffer", "9"), "--buffer has no effect with --out, which writes"),
        (("workload", "mixed", "--out", "new.csv", "--replications", "2"), "--replications has no effect with --out"),
        (("workload", "few.csv", "--replications", "2"), "--replications is 2, which has no effect on requests that "
         "are the same in every draw"),
        (("workload", "--template", "new.csv", "--rate", "3"), "--rate has no effect with --template"),
        (("workload", "--template", "new.csv", "--seed", "3"), "--seed has no effect with --template"),
        (("workload", "--template", "new.csv", "--requests", "3", "--buffer", "3"), "--requests and --buffer have no"),
        (("calibrate", "few.csv", "--base", "cx7-400g"), "--base has no effect without --out"),
        (("calibrate", "--here", "--base", "cx7-400g"), "--base has no effect without --out"),
        ((*DASK, "--jobs", "2"), "--jobs has no effect with --address: the cluster decides"),
        (("check", "--list", "--states", "5"), f"--states has no effect with --list; {SEARCH}"),
        (("check", "--list", "--jobs", "1"), f"--jobs has no effect with --list; {SEARCH} or --grid or --random"),
        (("check", "--list", "--verbose"), f"--verbose has no effect with --list; {SEARCH}"),
        (("check", "--list", "--grid", "2"), "--list has no effect with --grid"),
        (("check", "--list", "--out", "there"), "--out has no effect with --list"),
        (("check", "--seed", "5"), f"--seed has no effect in {SEARCH.removeprefix('it is for ')}; it is for --random"),
        (("check", "--grid", "2", "--bound", "quick"), f"--bound has no effect with --grid; {SEARCH} or --list"),
        (("check", "--grid", "2", "--discipline", "slot"), "--discipline has no effect with --grid"),
        (("check", "--grid", "2", "--seed", "5"), "--seed has no effect with --grid; it is for --random"),
        (("check", "--grid", "2", "--verbose"), "--verbose has no effect with --grid"),
        (("check", "--random", "2", "--only", "x"), "--only has no effect with --random"),
        (("check", "--random", "2", "--budget-s", "5"), f"--budget-s has no effect with --random; {SEARCH}"),
        ((*REPLAY, "--jobs", "2"), "--jobs has no effect with --replay"),
        ((*REPLAY, "--seed", "2"), "--seed has no effect with --replay; it is for --random"),
        ((*REPLAY, "--states", "2"), "--states has no effect with --replay"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, tuple) else "",
)  # fmt: skip
def test_an_option_without_effect_is_refused(
    bufferlab: Any, folder: Path, arguments: tuple[str, ...], words: str
) -> None:
    (folder / "device.toml").write_text(
        "[workload]\npreset = 'mixed'\nrate_rps = 5.0\n[real]\ndevice = 'mlx5_0'\n", encoding="utf-8"
    )
    (folder / "few.csv").write_text("arrival_s,total_tokens\n0,100\n1,200\n", encoding="utf-8")
    before = sorted(folder.iterdir())
    ended = bufferlab(*arguments)
    assert (ended.status, ended.out) == (2, ""), ended
    assert words in ended.err
    assert ended.err.startswith("bufferlab: ")
    assert ended.err.count("\n") == 1
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("sim", "seed-small", "--out", "run", "--force", "--no-plots", "--timeline", "--seed", "3"),
        ("sim", "seed-small", "--set", "real.device=mlx5_0", "--no-plots"),  # it is for the other world
        ("workload", "mixed", "--requests", "50", "--out", "new.csv", "--force", "--seed", "2", "--rate", "3"),
        ("workload", "mixed", "--requests", "50", "--buffer", "64", "--replications", "2"),
        ("workload", "few.csv", "--replications", "1", "--buffer", "64"),
        ("workload", "--template", "new.csv", "--force"),
        ("check", "--list", "--bound", "quick", "--discipline", "slot", "--only", "slot"),
        ("check", "--bound", "quick", "--only", "3 tokens, one of", "--jobs", "1", "--states", "50", "--verbose",
         "--budget-s", "60", "--out", "there"),
        ("check", "--random", "1", "--seed", "3", "--jobs", "1"),
    ],
    ids=lambda value: " ".join(value)[:60],
)  # fmt: skip
def test_options_with_an_effect_are_taken(bufferlab: Any, folder: Path, arguments: tuple[str, ...]) -> None:
    (folder / "few.csv").write_text("arrival_s,total_tokens\n0,100\n1,200\n", encoding="utf-8")
    ended = bufferlab(*arguments)
    assert ended.status == 0, ended.err


def test_a_device_is_taken_with_rdma(monkeypatch: pytest.MonkeyPatch, bufferlab: Any) -> None:
    asked: list[Any] = []

    def run(kind: str, execute: Any, config: Any, *_: Any, **__: Any) -> None:
        asked.append((kind, config.real.transport, config.real.device))

    monkeypatch.setattr(real, "run_into_directory", run)
    bufferlab("real", "seed-small", "--transport", "rdma", "--device", "mlx5_0")
    bufferlab("real", "seed-small", "--set", "real.transport=rdma", "--set", "real.device=mlx5_1")
    bufferlab("real", "seed-small", "--device", "")
    assert asked == [("real", "rdma", "mlx5_0"), ("real", "rdma", "mlx5_1"), ("real", "tcp", "")]
