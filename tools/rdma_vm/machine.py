"""Boots the virtual machine and waits for it, never longer than it is given."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.rdma_vm.initramfs import pack
from tools.rdma_vm.packages import Tools

ROOT = Path(__file__).resolve().parents[2]
DEVICE = "rxe0"
RESULT = "result.json"
CONSOLE = "console.log"
INSTRUCTION_SHIFT = 1
"""An instruction takes 2^shift ns of the guest's time, so its processor has 500 million a second."""

BOOT_S = 120.0
"""What the machine may take beside its job. Measured: 10 s on two idle cores."""

END_S = 5.0
POLL_S = 0.1


class MachineError(RuntimeError):
    """The virtual machine did not do what it should; the message is one sentence."""


def qemu_command(tools: Tools, initramfs: Path, results: Path, *, memory_mib: int, limit_s: float) -> list[str]:
    """The command line, wrapped so that the machine ends when this process does, and in bounded time in any case."""
    firmware = [word for folder in tools.firmware for word in ("-L", str(folder))]
    share = "local,id={0},security_model=none,{1},path={2}"
    return [
        *("setpriv", "--pdeathsig", "TERM"),
        *("timeout", f"--kill-after={END_S:g}", f"{limit_s:g}"),
        *(str(tools.qemu), *firmware, "-nodefaults", "-no-user-config", "-no-reboot"),
        *("-display", "none", "-serial", "stdio"),
        *("-machine", "pc", "-cpu", "max", "-smp", "1", "-m", str(memory_mib)),
        # The guest's clock counts instructions: a busy host makes the machine slow, but nothing in it times out.
        *("-accel", "tcg", "-icount", f"shift={INSTRUCTION_SHIFT}"),
        *("-kernel", str(tools.kernel), "-initrd", str(initramfs)),
        *("-append", "console=ttyS0 quiet panic=-1 mitigations=off"),
        *("-fsdev", share.format("host", "readonly=on,multidevs=remap", "/")),
        *("-device", "virtio-9p-pci,fsdev=host,mount_tag=host"),
        *("-fsdev", share.format("results", "multidevs=remap", _escaped(results))),
        *("-device", "virtio-9p-pci,fsdev=results,mount_tag=results"),
    ]


def boot(
    tools: Tools,
    out: Path,
    *,
    tests: str,
    memory_mib: int = 4096,
    limit_s: float = 600.0,
    say: Callable[[str], None] = print,
) -> Path:
    """Run the job in a virtual machine; the path of its result file in ``out``.

    ``out`` is an existing folder; the console's log is kept there too and its lines are told to ``say`` as they come.
    ``tests``: which tests of the equality test file, as an expression for pytest -k, empty for none. ``limit_s``: what
    the job may take; the machine gets BOOT_S more. Raises MachineError when the machine leaves no result.
    """
    initramfs = out / "initramfs.cpio.gz"
    settings = {
        "TREE": str(ROOT),
        "PYTHON": sys.executable,
        "DEVICE": DEVICE,
        "RDMA": str(tools.rdma),
        "VERBS": str(tools.verbs or ""),
        "LIBRARIES": ":".join(map(str, tools.libraries)),
        "LIMIT_S": f"{limit_s:.0f}",
        "TESTS": tests,
    }
    initramfs.write_bytes(pack(tools.busybox, tools.modules, settings))
    command = qemu_command(
        tools,
        initramfs,
        out,
        memory_mib=memory_mib,
        limit_s=limit_s + BOOT_S,
    )
    environment = {**os.environ, "QEMU_MODULE_DIR": str(tools.qemu.parent.parent / "lib/x86_64-linux-gnu/qemu")}
    if tools.libraries:
        environment["LD_LIBRARY_PATH"] = ":".join(map(str, tools.libraries))
    try:
        status = run_bounded(command, environment, out / CONSOLE, limit_s + BOOT_S + 2 * END_S, say)
    finally:
        initramfs.unlink()
    result = out / RESULT
    if not result.is_file():
        how = f"after {limit_s + BOOT_S:g} s" if status == 124 else f"with status {status}"
        raise MachineError(f"the virtual machine ended {how} and left no result; its console is in {out / CONSOLE}")
    return result


def run_bounded(
    command: Sequence[str], environment: dict[str, str], log: Path, limit_s: float, say: Callable[[str], None]
) -> int:
    """Run ``command`` with its output in ``log``; its exit status, 124 when it had to be ended.

    Nothing of it is left when this returns or raises, also for KeyboardInterrupt.
    """
    deadline = time.monotonic() + limit_s
    with log.open("wb") as sink, log.open("r", encoding="utf-8", errors="replace", newline="\n") as source:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
        )
        partial = ""

        def tell() -> str:
            *lines, rest = (partial + source.read()).split("\n")
            for line in lines:
                say(line.strip("\r"))
            return rest

        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    return 124
                time.sleep(POLL_S)
                partial = tell()
            partial = tell()
            if partial:
                say(partial)
            return process.returncode
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its children, which are a session of their own."""
    if process.poll() is not None:
        return
    process.terminate()  # `timeout` hands it on
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _escaped(path: Path) -> str:
    # A comma separates qemu's options; doubled it stands for itself.
    return str(path.resolve()).replace(",", ",,")
