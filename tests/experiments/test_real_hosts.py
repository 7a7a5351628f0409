"""``bufferlab real`` on several hosts: what is refused, and the scripts of docs/several-hosts.md.

What a run does is in tests/real/test_several_hosts.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.commands.real import real as real_command
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs import hosts as several_hosts
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.topology import RankId, Side

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "several-hosts.md").read_text(encoding="utf-8")
RANK = ["real", "--role", "encode", "--rank", "0"]
AT = ["--bootstrap", "127.0.0.1:7077"]


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port where nobody listens."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["real"], "CONFIG is missing, only a rank with --role needs none"),
        (["real", *AT], "CONFIG is missing, only a rank with --role needs none"),
        (RANK, "they need --bootstrap"),
        (["real", "seed-small", "--wait", "5"], "they need --bootstrap"),
        (["real", "--role", "encode", *AT], "--role and --rank must both be given"),
        (["real", "--rank", "0", *AT], "--role and --rank must both be given"),
        (["real", "seed-small", "--host", "127.0.0.1", *AT], "--role and --rank must both be given"),
        (["real", "--role", "decode", "--rank", "0", *AT], "--role is 'decode', it must be encode or language"),
        (["real", "--role", "encode", "--rank", "-1", *AT], "--rank is -1, it must be at least 0"),
        (["real", "--role", "encode", "--rank", "x", *AT], "'--rank': Input should be a valid integer"),
        ([*RANK, *AT, "--out", "run"], "--out, --force and --json are not allowed with --role"),
        ([*RANK, *AT, "--json"], "--out, --force and --json are not allowed with --role"),
        ([*RANK, *AT, "--seed", "3"], "not allowed with --role unless CONFIG is given"),
        ([*RANK, *AT, "--transport", "rdma"], "not allowed with --role unless CONFIG is given"),
        ([*RANK, "nowhere.toml", *AT], "CONFIG is 'nowhere.toml', it must be a file that can be read"),
        ([*RANK, *AT, "--wait", "-1"], "--wait is -1, it must be a number of seconds that is not negative"),
        ([*RANK, *AT, "--wait", "nan"], "--wait is nan, it must be a number of seconds"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_what_is_refused_at_once(bufferlab: Any, folder: Path, arguments: list[str], words: str) -> None:
    ended = bufferlab(*arguments)
    assert (ended.status, ended.out) == (2, ""), ended
    assert words in ended.err
    assert ended.err.startswith("bufferlab: ")
    assert ended.err.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.real
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*RANK, "--bootstrap", "here"], "--bootstrap is 'here', it must be HOST:PORT"),
        ([*RANK, "--bootstrap", "127.0.0.1:0"], "a port from 1 to 65535"),
        ([*RANK, "--bootstrap", "no-such-host.invalid:80"], "--bootstrap names the host 'no-such-host.invalid'"),
        ([*RANK, *AT, "--host", "203.0.113.77"], "--host names 203.0.113.77, it must be an address of this machine"),
        (["real", "seed-small", "--bootstrap", "203.0.113.77:80"], "--bootstrap names 203.0.113.77, it must be an"),
        (["real", "seed-small", "--bootstrap", "0.0.0.0:80"], "--bootstrap names 0.0.0.0, it must be an address by"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_addresses_that_are_refused(bufferlab: Any, folder: Path, arguments: list[str], words: str) -> None:
    pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")
    ended = bufferlab(*arguments)
    assert (ended.status, ended.out) == (2, ""), ended
    assert words in ended.err
    assert ended.err.count("\n") == 1
    assert list(folder.iterdir()) == []


@pytest.mark.real
def test_nobody_is_there(bufferlab: Any, folder: Path, free_port: int) -> None:
    pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")
    lonely = bufferlab(*RANK, "--bootstrap", f"127.0.0.1:{free_port}", "--wait", "0.3")
    assert lonely.status == 2
    assert lonely.err.splitlines()[-1].startswith(
        f"bufferlab: no coordinator is at 127.0.0.1:{free_port} after 0.3 s ("
    )
    waiting = bufferlab("real", "seed-small", "--bootstrap", "127.0.0.1:0", "--wait", "0.3", "--out", "run")
    assert (waiting.status, waiting.out) == (2, "")
    assert waiting.err.splitlines()[-1] == "bufferlab: after 0.3 s these ranks have not come: encode 0, language 0."
    assert list(folder.iterdir()) == []


def test_the_name_of_a_run_may_differ_and_nothing_else(folder: Path) -> None:
    small = several_hosts.comparable(load("seed-small"))
    (folder / "other.toml").write_text(Path(ROOT / "bufferlab/experiments/config/examples/seed-small.toml").read_text())
    assert several_hosts.comparable(load("other.toml")) == small
    assert several_hosts.comparable(load("seed-small", ["run.seed=9"])) != small
    assert several_hosts.comparable(load("seed-small", ["real.transport=rdma"])) != small


class Places:
    """Ranks on hosts with so much memory."""

    def __init__(self, memory_bytes: int) -> None:
        self.sides = {side: [RankId(side, 0, 0), RankId(side, 0, 1)] for side in Side}
        self._memory_bytes = memory_bytes

    def address_of(self, rank_id: RankId) -> str:
        return f"10.0.0.{1 + rank_id.rank}"

    def facts(self) -> dict[str, Any]:
        return {f"10.0.0.{one}": {"host": {"memory_bytes": self._memory_bytes}} for one in (1, 2)}


def test_each_host_must_hold_the_pools_of_its_own_ranks() -> None:
    config = load("seed-small", ["encode.tp=2", "language.tp=2"])
    pools = (config.encode.pool_blocks + config.language.pool_blocks) * config.layout.bytes_per_block
    several_hosts.check_memory(config, Places(int(pools / 0.7) + 1))  # type: ignore[arg-type]
    several_hosts.check_memory(config, Places(0))  # type: ignore[arg-type] - a system that does not tell
    with pytest.raises(UserError, match=r"the pools of the ranks on 10\.0\.0\.1 take \d+\.\d GiB"):
        several_hosts.check_memory(config, Places(int(pools / 0.7) - 1))  # type: ignore[arg-type]


# --- the page ---


def unused_port() -> int:
    """A port that the batch script can come to."""
    for port in range(20_000 + os.getpid() % 10_000, 30_000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise AssertionError("no port is free")


def scripts() -> list[str]:
    return re.findall(r"```bash\n(#!/bin/bash\n.*?)```", PAGE, re.DOTALL)


def test_the_page_knows_the_options() -> None:
    options = set(re.findall(r"`(--[a-z]+)", PAGE[: PAGE.index("## Without a batch system")]))
    known = {f"--{name.removesuffix('_s').replace('_', '-')}" for name in real_command.__annotations__}
    assert {"--bootstrap", "--role", "--rank", "--host", "--device", "--wait"} <= options <= known


@pytest.mark.real
@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("which", ["ssh", "slurm"])
def test_the_scripts_run_as_they_are(folder: Path, which: str) -> None:
    """With an ``ssh`` and an ``srun`` that start their commands on this machine."""
    pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")
    ssh, slurm = scripts()
    (folder / "bin").mkdir()
    shims = {
        "ssh": '#!/bin/bash\n[ "$1" = -n ] && [ "$2" = node ] && exec bash -c "$3"\n',
        "srun": (
            "#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\n"
            'for task in $(seq 0 $((SLURM_NTASKS - 1))); do SLURM_PROCID=$task "$@" & done; wait\n'
        ),
    }
    for name, text in shims.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    port = unused_port()
    environment = {
        **os.environ,
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "BUFFERLAB": f"{sys.executable} -m bufferlab",
        "ADDRESS": "127.0.0.1",
        "CONFIG": "mine.toml",
        "OUT": "run",
    }
    environment |= (
        {"ENCODE": "node", "LANGUAGE": "node node", "PORT": str(port)}
        if which == "ssh"
        else {"ENCODE": "1", "SLURM_NTASKS": "3", "SLURM_JOB_ID": str(port - 20000)}
    )
    text = (ROOT / "bufferlab" / "experiments" / "config" / "examples" / "seed-resume.toml").read_text()
    (folder / "mine.toml").write_text(text.replace("[language]\n", "[language]\ntp = 2\n"))
    done = subprocess.run(
        ["bash", "-c", ssh if which == "ssh" else slurm],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "1 succeeded" in done.stdout
    assert len(json.loads((folder / "run" / "environment.json").read_text())["ranks"]) == 3
