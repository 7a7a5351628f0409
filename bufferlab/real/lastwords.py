"""Why a process ended, out of what it wrote to standard error: the cause, not the last frame of a stack."""

from __future__ import annotations

import re
import signal

_FATAL = re.compile(r"F\d{4,8} [\d:.]+ +\d+ [^\]]+\] (?P<said>.+)")  # glog: F20261130 02:45:20.123456 7 file.cc:12] …
_WHAT = re.compile(r"what\(\): +(?P<said>.+)")
_TERMINATED = re.compile(r"terminate called (after throwing an instance of '(?P<kind>[^']+)'|without an active)")
_ERROR = re.compile(r"[EW]\d{4,8} [\d:.]+ +\d+ [^\]]+\] (?P<said>.+)")
_NOISE = re.compile(
    r"\s*@ +0x|\*\*\* |\s*File \"|Fatal Python error|Current thread|Thread 0x|Extension modules|Traceback \("
    r"|<no Python frame>"
)
_PYTHON = re.compile(r"(?P<kind>[A-Za-z_][\w.]*(Error|Exception|Missing|Broken|Refused|Exit|Interrupt)): (?P<said>.+)")
_OWN = "bufferlab."
_PLAIN = frozenset(
    {"ImportError", "ModuleNotFoundError", "OSError", "RuntimeError", "ValueError", "SystemExit", "EngineError"}
)
_SIGNALS = {
    signal.SIGILL: "it needs instructions that this processor does not have",
    signal.SIGKILL: "it was killed, most often for want of memory",
    signal.SIGSEGV: "it crashed with a memory fault",
    signal.SIGABRT: "it aborted",
    signal.SIGBUS: "it crashed with a memory fault",
}


def cause(stderr: str, status: int | None = None) -> str:
    """What a process that wrote ``stderr`` died of, as one line; empty if neither that nor its status tells.

    The first fatal line of the engine's log comes before what C++ says of an exception, that before the last line of a
    Python traceback, and any other last line before the engine's errors. ``status``: its exit status, negative for a
    signal.
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for pattern in (_FATAL, _WHAT):
        for line in lines:
            if found := pattern.match(line):
                return found["said"].strip()
    for line in lines:
        if (found := _TERMINATED.match(line)) and found["kind"]:
            return f"it ended with {found['kind']}"
    plain = [line for line in lines if not _NOISE.match(line)]
    said = [line for line in plain if not _ERROR.match(line)]
    if said:
        return _without_kind(said[-1])
    for line in plain:
        if found := _ERROR.match(line):
            return found["said"].strip()
    return ended(status)


def ended(status: int | None) -> str:
    """How a process with this exit status ended, in a few words; empty if it is not known or good."""
    if not status:
        return ""
    if status > 0:
        return f"it ended with status {status}"
    try:
        number = signal.Signals(-status)
    except ValueError:
        return f"it ended with signal {-status}"
    return f"{_SIGNALS.get(number, 'it was ended')} ({number.name})"


def _without_kind(line: str) -> str:
    """The message of an exception whose class says no more to a user."""
    while found := _PYTHON.fullmatch(line):
        kind = found["kind"]
        if not kind.startswith(_OWN) and kind.rpartition(".")[2] not in _PLAIN:
            return line
        line = found["said"]
    return line
