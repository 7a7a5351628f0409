"""RDMA without an adapter: the parts of the virtual machine, and (opt-in: make test-rdma) the machine itself."""

from __future__ import annotations

import copy
import gzip
import lzma
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

from tools.rdma_vm import guest, packages
from tools.rdma_vm.__main__ import IMPOSSIBLE, main
from tools.rdma_vm.initramfs import MODULES, ModuleMissingError, cpio, load_order, pack
from tools.rdma_vm.machine import MachineError, boot, qemu_command, run_bounded
from tools.rdma_vm.packages import Tools, UnavailableError
from tools.rdma_vm.verdict import PACKET_BYTES, RECEIVED, SENT, problems, table

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.timeout(60)


# --- the archive -----------------------------------------------------------------------------------------------------


def unpacked(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """A second reading of the format: path to mode and content, in order."""
    entries: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_length = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_length]
        assert name.endswith(b"\0")
        start = -(-(at + 110 + name_length) // 4) * 4
        if name == b"TRAILER!!!\0":
            return entries
        entries[name[:-1].decode()] = (mode, archive[start : start + size])
        at = -(-(start + size) // 4) * 4


def test_the_archive_holds_files_after_their_folders() -> None:
    files = {"init": (b"#!x", 0o755), "modules/a/deep.ko": (b"", 0o644), "bin/busybox": (b"12345", 0o755)}
    entries = unpacked(cpio(files))
    assert {path: content for path, (mode, content) in entries.items() if mode & 0o100000} == {
        path: content for path, (content, _) in files.items()
    }
    assert entries["init"][0] == 0o100755
    order = list(entries)
    for path in files:
        for parent in Path(path).parents[:-1]:
            assert order.index(str(parent)) < order.index(path)
            assert entries[str(parent)][0] == 0o040755


def module(*needs: str) -> bytes:
    return b"\x7fELF...\0license=GPL\0depends=" + ",".join(needs).encode() + b"\0retpoline=Y\0"


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    folder = tmp_path / "6.1.0-test"
    (folder / "kernel/net").mkdir(parents=True)
    (folder / "modules.builtin").write_text("kernel/lib/libcrc32c.ko\n")
    (folder / "kernel/rdma_rxe.ko.xz").write_bytes(lzma.compress(module("ib-core", "udp_tunnel", "libcrc32c")))
    (folder / "kernel/ib_core.ko.gz").write_bytes(gzip.compress(module("configfs")))
    (folder / "kernel/configfs.ko").write_bytes(module())
    (folder / "kernel/net/udp_tunnel.ko").write_bytes(module())
    return folder


def test_modules_come_after_what_they_depend_on(modules: Path) -> None:
    order = load_order(modules, ["rdma_rxe", "configfs"])
    assert list(order) == ["configfs", "ib_core", "udp_tunnel", "rdma_rxe"]
    assert order["rdma_rxe"] == module("ib-core", "udp_tunnel", "libcrc32c")


def test_a_missing_module_is_named_with_who_needs_it(modules: Path) -> None:
    (modules / "kernel/configfs.ko").unlink()
    with pytest.raises(ModuleMissingError, match=r"6\.1\.0-test has no module configfs, which ib_core needs"):
        load_order(modules, ["rdma_rxe"])


def test_settings_survive_the_shell(modules: Path, tmp_path: Path) -> None:
    for name in MODULES:
        (modules / f"kernel/{name}.ko").write_bytes(module())
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"busybox")
    awkward = "/a folder/it's $HOME `x`"
    entries = unpacked(gzip.decompress(pack(busybox, modules, {"TREE": awkward, "TESTS": ""})))
    settings = tmp_path / "settings"
    settings.write_bytes(entries["settings"][1])
    shown = subprocess.run(
        ["sh", "-c", f'. {settings}; printf "%s|%s" "$TREE" "$TESTS"'], capture_output=True, text=True, check=True
    )
    assert shown.stdout == f"{awkward}|"
    names = entries["modules/order"][1].decode().split()
    assert set(MODULES) < set(names)
    assert all(f"modules/{name}.ko" in entries for name in names)


def test_the_first_process_is_a_shell_script_without_mistakes_of_form() -> None:
    script = ROOT / "tools/rdma_vm/init.sh"
    subprocess.run(["sh", "-n", str(script)], check=True, timeout=10)


# --- the verdict -----------------------------------------------------------------------------------------------------


def good_result() -> dict[str, Any]:
    written = 100 * PACKET_BYTES * 100
    case = {
        "name": "seed-small",
        "transport": "rdma",
        "evidence": ["engine log"],
        "compared": 4,
        "differences": [],
        "written_bytes": written,
        "port_before": {SENT: 10, RECEIVED: 10},
        "port_after": {SENT: 10_500, RECEIVED: 10_500},
        "loopback_bytes": 30_000,
        "wall_s": 1.5,
    }
    return {
        "device": "rxe0",
        "kernel": "Linux",
        "cases": [case],
        "tests_status": 0,
        "port_before": {SENT: 10, RECEIVED: 10},
        "port_after": {SENT: 10_500, RECEIVED: 10_500},
    }


def test_enough_packets_and_equal_histories_pass() -> None:
    result = good_result()
    assert problems(result) == []
    assert problems(result | {"tests_status": None}) == []
    assert "10,490" in table(result)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"transport": "tcp"}, "not rdma"),
        ({"differences": ["room 1 on encode0.0: …"]}, "room 1"),
        ({"compared": 0}, "nothing was compared"),
        ({"written_bytes": 0}, "nothing was written"),
        ({"port_after": {SENT: 10, RECEIVED: 10}}, "sent_pkts rose by 0"),
        ({"port_after": {SENT: 10 + 9_999, RECEIVED: 10_500}}, "10000 packets at least"),
        ({"port_after": {SENT: 10_500}}, "rcvd_pkts rose by 0"),
        ({"loopback_bytes": 100 * PACKET_BYTES * 100}, "loopback interface"),
    ],
)
def test_what_proves_nothing_fails(change: dict[str, Any], told: str) -> None:
    result = copy.deepcopy(good_result())
    result["cases"][0] |= change
    assert any(told in sentence for sentence in problems(result)), problems(result)


@pytest.mark.parametrize("change", [{"cases": []}, {"tests_status": 5}, {"tests_status": 1}])
def test_a_run_without_cases_or_with_failed_tests_fails(change: dict[str, Any]) -> None:
    assert problems(good_result() | change)


# --- the machine -----------------------------------------------------------------------------------------------------


def children_with(word: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if word in " ".join(process.info["cmdline"] or []):
            found.append(process)
    return found


def test_a_machine_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    lines: list[str] = []
    script = f"echo first; sh -c 'sleep 55; : {tmp_path}' & sleep 55; : {tmp_path}"
    started_s = time.monotonic()
    status = run_bounded(["timeout", "50", "sh", "-c", script], dict(os.environ), tmp_path / "log", 1.0, lines.append)
    assert status == 124
    assert time.monotonic() - started_s < 20
    assert lines == ["first"]
    assert children_with(str(tmp_path)) == []


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    def interrupted(_line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_bounded(
            ["timeout", "50", "sh", "-c", f"echo x; sleep 55; : {tmp_path}"],
            dict(os.environ),
            tmp_path / "log",
            30.0,
            interrupted,
        )
    assert children_with(str(tmp_path)) == []


def test_every_measured_run_of_a_test_goes_over_rdma_and_bears_its_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guest, "port_counters", lambda device: {SENT: 5})
    seen: dict[str, object] = {}

    def run_real(*arguments: object, **options: object) -> SimpleNamespace:
        seen.update(options, arguments=arguments)
        return SimpleNamespace(proof=SimpleNamespace(actual="tcp", evidence=["a sentence"]), records=[])

    module = ModuleType("tests")
    module.run_real = run_real  # type: ignore[attr-defined]
    plugin = guest.OverRdma("rxe7")
    item = SimpleNamespace(name="test_one", module=module, add_marker=lambda *_arguments, **_options: None)
    plugin.pytest_collection_modifyitems([item])
    plugin.pytest_runtest_setup(item)
    item.module.run_real("scenario", transport="tcp", verify=True)
    assert seen == {"arguments": ("scenario",), "transport": "rdma", "device": "rxe7", "verify": True}
    (case,) = plugin.cases
    assert (case["name"], case["transport"], case["differences"]) == ("test_one", "tcp", [])
    plugin.pytest_runtest_logreport(
        SimpleNamespace(when="call", outcome="failed", nodeid="x", duration=1.0, failed=True, longreprtext="a\nE why")
    )
    assert case["differences"] == ["the test failed in call: E why"]


@pytest.fixture
def fake_tools(tmp_path: Path, modules: Path) -> Tools:
    """Everything there but the machine: ``qemu`` is a script that the test writes."""
    for name in MODULES:
        (modules / f"kernel/{name}.ko").write_bytes(module())
    for name in ("vmlinuz", "busybox", "rdma"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "bin").mkdir()
    return Tools(
        kernel=tmp_path / "vmlinuz",
        modules=modules,
        busybox=tmp_path / "busybox",
        qemu=tmp_path / "bin/qemu",
        rdma=tmp_path / "rdma",
        verbs=None,
        libraries=(),
        firmware=(),
        versions={},
    )


def write_program(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_a_machine_does_not_outlive_a_killed_command(tmp_path: Path, fake_tools: Tools) -> None:
    command = qemu_command(fake_tools, tmp_path / "initramfs", tmp_path, memory_mib=1024, limit_s=50)
    before_qemu = command[: command.index(str(fake_tools.qemu))]
    marked = [*before_qemu, "sh", "-c", f"sleep 55; : {tmp_path}"]
    code = "import subprocess, sys, time; subprocess.Popen(sys.argv[1:], start_new_session=True); time.sleep(50)"
    parent = subprocess.Popen([sys.executable, "-c", code, *marked])
    wait_until(lambda: len(children_with(f"sleep 55; : {tmp_path}")) == 3)  # the parent, `timeout` and the shell
    parent.kill()
    parent.wait(10)
    wait_until(lambda: not children_with(str(tmp_path)))


def wait_until(condition: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_machine_without_a_result_is_a_failure(tmp_path: Path, fake_tools: Tools) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_program(fake_tools.qemu, "echo guest: failed; exit 0")
    lines: list[str] = []
    with pytest.raises(MachineError, match="left no result"):
        boot(fake_tools, out, tests="", limit_s=10, say=lines.append)
    assert lines == ["guest: failed"]
    assert [path.name for path in out.iterdir()] == ["console.log"]
    write_program(fake_tools.qemu, f"echo '{{}}' > {out}/result.json")
    assert boot(fake_tools, out, tests="", limit_s=10, say=lines.append).read_text() == "{}\n"


# --- the command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--memory-mib", "512"], "--memory-mib is 512, it must be"),
        (["--limit-s", "1"], "--limit-s is 1, it must be"),
        (["--out", "{full}"], "it must be a new or empty folder"),
        (["--cache", "{full}"], "it must be a new or empty folder, or one we filled"),
    ],
)
def test_bad_input_is_one_sentence_and_status_2(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    out = ["--out", str(tmp_path / "out")]
    assert main([*out, *(text.format(full=full) for text in arguments)]) == IMPOSSIBLE
    errors = capsys.readouterr().err
    assert told in errors
    assert errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_another_kind_of_machine_is_told_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert main(["--out", str(tmp_path / "out")]) == IMPOSSIBLE
    assert "it must be Linux on x86-64" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_archive_out_of_reach_leaves_no_half_filled_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    write_program(programs / "apt-cache", "echo '  Depends: linux-image-6.1.0-1-amd64'")
    write_program(
        programs / "apt-get",
        'case "$*" in *simulate*) echo "Inst seabios (1 x)";; *) echo "E: no way" >&2; exit 100;; esac',
    )
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    with pytest.raises(UnavailableError, match=r"no way.*apt-get update"):
        packages.fetch(tmp_path / "cache" / "rdma-vm")
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.rdma_vm
@pytest.mark.timeout(3600)
def test_simulator_and_real_backend_agree_over_rdma() -> None:
    """Boots the machine; its report, with the port counters, is printed and kept under runs/."""
    pytest.importorskip("torch", reason="needs torch")
    pytest.importorskip("mooncake", reason="needs Mooncake's Transfer Engine")
    try:
        packages.require_host()
        packages.fetch(packages.default_cache())
    except UnavailableError as error:
        pytest.skip(str(error))
    assert subprocess.run([sys.executable, "-m", "tools.rdma_vm"], cwd=ROOT, check=False).returncode == 0
