"""Which variables reach the engine, and what is told of the others."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bufferlab.real.control.registry_client import http_session
from bufferlab.real.engine import variables
from bufferlab.real.engine.variables import ALLOWED, PASSED, clean_here, cleaned, foreign, notice, passed
from bufferlab.real.lastwords import cause, ended

ROOT = Path(__file__).resolve().parents[2]
LEFT_OVER = {
    "MC_LOG_DIR": "/var/log/gone",
    "MC_USE_IPV6": "1",
    "MC_TCP_PROGRESS_TIMEOUT_SEC": "60",
    "MOONCAKE_CONFIG_PATH": "/etc/mooncake.json",
    "GLOG_v": "5",
    "GLOO_DEVICE_TRANSPORT": "TCP_TLS",
    "NCCL_SOCKET_IFNAME": "ib0",
    "TORCH_DISTRIBUTED_DEBUG": "DETAIL",
    "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
    "MASTER_ADDR": "10.0.0.1",
    "WORLD_SIZE": "16",
    "OMP_NUM_THREADS": "96",
    "MKL_DEBUG_CPU_TYPE": "5",
    "RDMAV_HUGEPAGES_SAFE": "1",
    "FI_PROVIDER": "efa",
    "MALLOC_PERTURB_": "7",
    "GLIBC_TUNABLES": "glibc.malloc.arena_max=1",
    "HTTP_PROXY": "http://u:secret@proxy:3128",
    "https_proxy": "http://proxy:3128",
    "no_proxy": "localhost",
    "All_Proxy": "socks5://proxy",
}
HARMLESS = {
    "PATH": "/bin", "HOME": "/root", "LD_LIBRARY_PATH": "/opt", "CUDA_VISIBLE_DEVICES": "1", "RANKS": "1", "MCX": "1",
    "PYTHONPATH": "/x", "TMPDIR": "/tmp", "MPLCONFIGDIR": "/x", "proxy": "1",
}  # fmt: skip


def test_what_belongs_to_the_engine_is_out_unless_it_is_listed() -> None:
    listed = dict.fromkeys(ALLOWED, "1")
    environment = {**LEFT_OVER, **HARMLESS, **listed}
    assert foreign(environment) == sorted(LEFT_OVER)
    assert cleaned(environment) == {**HARMLESS, **listed}
    assert passed(environment) == listed
    assert passed(LEFT_OVER) == {}


def test_this_process_is_cleaned_and_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variables, "_taken_out", set())
    monkeypatch.setattr(variables, "_ours", set())
    environment = {**LEFT_OVER, **HARMLESS}
    assert clean_here(environment) == sorted(LEFT_OVER)
    assert environment == HARMLESS
    assert clean_here(environment) == []
    assert variables.taken_out() == sorted(LEFT_OVER)


def test_what_we_set_ourselves_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variables, "_taken_out", set())
    monkeypatch.setattr(variables, "_ours", set())
    monkeypatch.delenv("MC_FORCE_TCP", raising=False)
    variables.set_by_us("MC_FORCE_TCP", "1")
    assert "MC_FORCE_TCP" not in clean_here()
    assert os.environ["MC_FORCE_TCP"] == "1"
    variables.set_by_us("MC_FORCE_TCP", None)
    assert "MC_FORCE_TCP" not in os.environ


def test_what_we_set_is_nobody_elses_in_the_processes_that_inherit_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose parent runs an engine of its own finds that engine's variables, and names none of them."""
    monkeypatch.setattr(variables, "_ours", set())
    for name, value in (("MC_FORCE_TCP", "1"), ("MC_TCP_SLICE_SIZE", str(4 << 20))):
        monkeypatch.setenv(name, value)
        variables.set_by_us(name, value)
    inherited = {**os.environ, "MC_USE_IPV6": "1"}
    monkeypatch.setattr(variables, "_taken_out", set())
    monkeypatch.setattr(variables, "_ours", set())  # as in the child
    for name in ("MC_FORCE_TCP", "MC_TCP_SLICE_SIZE", variables.OURS):
        monkeypatch.delenv(name)
    assert "MC_FORCE_TCP" not in foreign(inherited)
    assert "MC_USE_IPV6" in foreign(inherited)
    assert "MC_TCP_SLICE_SIZE" not in passed(inherited)
    ours = {"MC_FORCE_TCP", "MC_TCP_SLICE_SIZE", variables.OURS}
    assert not ours & cleaned(inherited).keys()
    assert passed({**inherited, "MC_TCP_SLICE_SIZE": "65536"}) == {"MC_TCP_SLICE_SIZE": "65536"}, "a user's since"
    assert "MC_USE_IPV6" in clean_here(inherited)
    assert "MC_FORCE_TCP" not in variables.taken_out()
    assert not ours & inherited.keys()


def test_a_user_who_meant_the_engine_is_told() -> None:
    assert notice(["HTTP_PROXY", "OMP_NUM_THREADS"]) == ""
    told = notice(["HTTP_PROXY", "MC_TCP_PROTO", "NCCL_DEBUG"])
    assert told.startswith("left out of the engine's environment: MC_TCP_PROTO, NCCL_DEBUG (")


def test_the_page_has_the_list() -> None:
    page = (ROOT / "docs" / "real.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|$", page, re.MULTILINE)
    found = {tuple(re.findall(r"`(\w+)`", names)): why.strip() for names, why in rows}
    for one in PASSED:
        assert found.get(one.names) == one.why


def test_no_probe_goes_through_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")

    async def trusts() -> bool:
        async with http_session(1.0) as session:
            return session.trust_env

    assert asyncio.run(trusts()) is False


# --- what a process died of ---

ABORT = """\
F1130 03:11:06.335602 29678 utilities.cc:322] Check failed: !IsGoogleLoggingInitialized() You called it twice!
*** Check failure stack trace: ***
    @     0x7fd0f1c0dad3  google::LogMessage::Fail()
    @     0x7f9155298909  run_mod
"""
TRACEBACK = """\
Traceback (most recent call last):
  File "x.py", line 7, in <module>
    raise EngineStartError("a")
bufferlab.real.errors.EngineStartError: EngineError: encode0.0 cannot reach language0.0 at 127.0.0.1:15389
"""


@pytest.mark.parametrize(
    ("stderr", "status", "told"),
    [
        (ABORT, -6, "Check failed: !IsGoogleLoggingInitialized() You called it twice!"),
        (TRACEBACK, 1, "encode0.0 cannot reach language0.0 at 127.0.0.1:15389"),
        ("Traceback (most recent call last):\nKeyError: 'x'\n", 1, "KeyError: 'x'"),
        ("ImportError: libnuma.so.1: cannot open shared object file", 1, "libnuma.so.1: cannot open shared object file"),
        ("terminate called after throwing an instance of 'std::system_error'\n  what():  No space left on device\n", -6,
         "No space left on device"),
        ("Fatal Python error: Segmentation fault\n\nCurrent thread 0x00007f (most recent call first):\n"
         '  File "x.py", line 1 in <module>\n\nExtension modules: numpy (total: 1)\n', -11,
         "it crashed with a memory fault (SIGSEGV)"),
        ("E1130 03:11:06.335602 7 tcp.cc:1] bind: Address already in use\nW1130 03:11:06.335602 7 a.cc:1] later\n", 1,
         "bind: Address already in use"),
        ("", -4, "it needs instructions that this processor does not have (SIGILL)"),
        ("", -9, "it was killed, most often for want of memory (SIGKILL)"),
        ("", 7, "it ended with status 7"),
        ("", None, ""),
    ],
)  # fmt: skip
def test_the_cause_and_not_the_last_frame(stderr: str, status: int | None, told: str) -> None:
    assert cause(stderr, status) == told
    assert ended(0) == ""


# --- over Mooncake ---

over_mooncake = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("mooncake", "torch", "zmq")), reason="needs torch and Mooncake"
)


def bufferlab(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bufferlab", *arguments],
        # Without what a run in this very process has set for its engine.
        cwd=cwd, env={**cleaned(os.environ), "PYTHONPATH": str(ROOT), **environment}, capture_output=True, text=True, timeout=100,
        check=False,
    )  # fmt: skip


@pytest.mark.real
@over_mooncake
def test_a_run_in_the_environment_of_another_deployment(tmp_path: Path) -> None:
    left: dict[str, Any] = {**LEFT_OVER, "MC_LOG_DIR": str(tmp_path), "MC_TCP_SLICE_SIZE": "1048576"}
    left.pop("MALLOC_PERTURB_")  # the launching process is slow with it
    done = bufferlab("real", "seed-resume", "--out", "run", "--no-plots", cwd=tmp_path, **left)
    assert done.returncode == 0, done.stderr
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert set(left) - {"MC_TCP_SLICE_SIZE"} <= set(environment["removed_variables"])
    assert environment["passed_variables"]["MC_TCP_SLICE_SIZE"] == "1048576"
    assert "secret" not in json.dumps(environment)
    assert "left out of the engine's environment: GLOG_v, GLOO_DEVICE_TRANSPORT, MC_LOG_DIR" in done.stderr


@pytest.mark.real
@over_mooncake
@pytest.mark.parametrize("name", ["MC_LOG_DIR", "MC_USE_IPV6"])
def test_doctor_is_not_misled(tmp_path: Path, name: str) -> None:
    value = "1" if name == "MC_USE_IPV6" else str(tmp_path)
    done = bufferlab("doctor", "--json", cwd=tmp_path, **{name: value})
    found = json.loads(done.stdout)
    assert found["transports"]["tcp"]["works"] is True, found
    assert name in found["removed_variables"]
    assert found["mend"] == []


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("GLOO_SOCKET_IFNAME", "eth99", "must be an interface of this host: "),
        ("GLOO_SOCKET_IFNAME", "lo,eth99", "must be an interface of this host: "),
        ("GLOO_SOCKET_IFNAME", "", "must be an interface of this host: "),
        ("MC_TCP_SLICE_SIZE", "abc", "must be a whole number from 1 to 2147483647"),
        ("MC_TCP_SLICE_SIZE", "0", "must be a whole number from 1"),
        ("MC_TCP_SLICE_SIZE", "64K", "must be a whole number from 1"),
        ("MC_WORKERS_PER_CTX", "-2", "must be a whole number from 1"),
        ("MC_LOG_LEVEL", "banana", "must be one of TRACE, INFO, WARNING, ERROR"),
        ("MC_MTU", "9000", "must be one of 512, 1024, 2048, 4096"),
        ("MC_GID_INDEX", "first", "must be a whole number from 0"),
    ],
)
def test_a_value_that_a_library_cannot_use_is_refused_before_it_reads_it(
    name: str, value: str, sentence: str, tmp_path: Path
) -> None:
    assert variables.useless({name: value}).startswith(f"{name} is {value!r} in the environment, it {sentence}")
    done = subprocess.run(
        [sys.executable, "-m", "bufferlab", "real", "seed-small", "--out", str(tmp_path / "never")], cwd=ROOT,
        env={**os.environ, name: value}, text=True, capture_output=True, timeout=100, check=False,
    )  # fmt: skip
    assert (done.returncode, (tmp_path / "never").exists()) == (2, False), done.stderr
    assert f"bufferlab: {name} is " in done.stderr


def test_values_that_mean_something_pass() -> None:
    good = {
        "GLOO_SOCKET_IFNAME": "lo", "MC_TCP_SLICE_SIZE": "65536", "MC_WORKERS_PER_CTX": "2", "MC_LOG_LEVEL": "ERROR",
        "MC_MTU": "4096", "MC_GID_INDEX": "3", "MC_IB_TC": "106", "TORCH_HOME": "/x",
    }  # fmt: skip
    assert variables.useless(good) == ""
