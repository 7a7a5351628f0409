"""What is installed here, what really works, and the exact command that mends what does not."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from bufferlab.experiments.runs.environment import (
    MOONCAKE_WHEELS,
    PACKAGES,
    REAL_PACKAGES,
    describe_code,
    describe_host,
    package_version,
    rdma_devices,
)
from bufferlab.experiments.runs.remedies import SYSTEM_LIBRARIES, WITHOUT_MOONCAKE, Report, mend_commands

IMPORT_NAMES = {"pyzmq": "zmq"}
PROBE_TIMEOUT_S = 60.0

SIMULATOR_PROBE = """
from bufferlab.experiments.workloads.loading import load
from bufferlab.experiments.runs.simulate import simulate_one
one, broken = simulate_one(load("seed-resume"), 0)
assert one.statuses == {"Success": 1} and not one.violations, (one.statuses, broken)
"""

IMPORT_PROBE = """
import importlib.util, sys
found = importlib.util.find_spec("mooncake")
print(next(iter(found.submodule_search_locations or [found.origin])) if found else "", flush=True)
try:
    import mooncake.engine
except ModuleNotFoundError as error:
    sys.exit(f"No module named {error.name!r}")
"""

ABSENT = "No module named 'mooncake'"

LOADER_VARIABLES = ("LD_PRELOAD", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "LD_BIND_NOW", "LD_AUDIT")
"""These decide which files a program loads. None is the engine's own, but one left over may break it."""

TRANSPORTS_PROBE = """
import json, sys, traceback
import msgspec
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.real.lastwords import cause
from bufferlab.real.run.launcher import run_real
scenario = Scenario(block_tokens=16, hidden=64, sizing_options={"tokens": 64}, timeout_s=20.0)
for transport, device in json.loads(sys.argv[1]).items():
    try:
        outcome = run_real(scenario, [Request(1, 0.0, 100)], transport=transport, device=device)
        assert not outcome.wrong, outcome.wrong[0]
        verified_bytes = outcome.verified_bytes
        assert verified_bytes == 100 * scenario.layout.bytes_per_token, f"{verified_bytes} bytes verified"
        told = {"works": True, "reason": "", "proof": msgspec.to_builtins(outcome.proof)}
    except Exception as error:
        told = {"works": False, "reason": cause(traceback.format_exc()) or repr(error), "proof": None}
    print(json.dumps([transport, told]), flush=True)
"""
"""One process for all of them: what their ranks import is imported once."""


def examine(say: Callable[[str], None] = lambda _: None) -> Report:
    """Look at everything. Nothing that may hang or crash runs in this process."""
    from bufferlab.real.engine.registry import engines

    with ThreadPoolExecutor(1) as beside:
        say("the simulator")
        simulation = beside.submit(_probe, [sys.executable, "-P", "-c", SIMULATOR_PROBE])
        say("the import of Mooncake")
        installed = _installed()
        absent = installed["absent"]
        devices = rdma_devices()
        found: Report = {
            "python": platform.python_version(),
            **describe_code(),
            "host": describe_host(),
            "packages": {name: package_version(name) for name in (*PACKAGES, *REAL_PACKAGES)},
            **installed,
            "rdma_devices": devices,
        }
        transports: Report = {}
        tried: dict[str, str] = {}
        for transport, engine in engines().items():
            has_devices = transport in engine.device_transports
            if installed["useless_variable"]:
                reason = installed["useless_variable"]
            elif engine.needs_mooncake and not installed["mooncake_imports"]["works"]:
                reason = "Mooncake cannot be imported"
            elif absent:
                reason = f"{' and '.join(absent)} not installed"
            elif has_devices and not devices:
                reason = "no RDMA device on this host"
            else:
                tried[transport] = devices[0] if has_devices else ""
                continue
            transports[transport] = {"works": False, "reason": reason, "proof": None}
        if tried:
            say(f"a real transfer over {' and '.join(tried)}")
            transports |= _try_transports(tried)
        found["transports"] = {transport: transports[transport] for transport in engines()}
        simulator = simulation.result()
    found["simulator"] = {"works": simulator["works"], "reason": simulator["reason"]}
    usable = installed["mooncake_imports"]["works"] and not absent and not installed["useless_variable"]
    if usable and not found["transports"]["tcp"]["works"]:
        found["broken"] = _broken_packages()
    works = [name for name, one in found["transports"].items() if one["works"]]
    without = [name for name in works if not engines()[name].needs_mooncake]
    found["real"] = {"works": bool(works), "only": without[0] if works and works == without else ""}
    found["mend"] = mend_commands(found)
    return found


def examine_real(transport: str | None = "tcp") -> str:
    """Why the real backend cannot start here, in one sentence with the command that mends it; empty when it can.

    Quicker than ``examine``: it looks and imports, but transfers nothing. ``transport``: what is to carry the data;
    None where only others know that, and then Mooncake may be absent.
    """
    from bufferlab.real.engine.registry import engine_class

    needs_mooncake = transport is not None and engine_class(transport).needs_mooncake
    found = _installed(look_for_mooncake=needs_mooncake)
    if found["useless_variable"]:
        return str(found["useless_variable"])
    if found["absent"]:
        reason = f"{' and '.join(found['absent'])} {'is' if len(found['absent']) == 1 else 'are'} not installed"
    elif not found["mooncake_imports"]["works"]:
        reason = f"Mooncake cannot be imported ({found['mooncake_imports']['reason']})"
    else:
        return ""
    lines = mend_commands(found)
    commands = [line for line in lines if not line.startswith("#")]
    mend = "".join(f"; {line.lstrip('# ')}" for line in lines if line.startswith("#"))
    mend += f"; to mend it, run: {' && '.join(commands)}" if commands else ""
    if needs_mooncake and not found["absent"]:
        mend += f"; {WITHOUT_MOONCAKE}"
    return f"the real backend cannot start because {reason}{mend}"


def _installed(*, look_for_mooncake: bool = True) -> Report:
    """What the commands that mend depend on. Without ``look_for_mooncake`` it counts as there: nobody needs it."""
    from bufferlab.real.engine import variables

    wheels = {name: version for name in MOONCAKE_WHEELS if (version := package_version(name))}
    return {
        "mooncake_wheels": wheels,
        "mooncake_imports": _import_mooncake(wheels) if look_for_mooncake else {"works": True, "reason": ""},
        "mooncake_needed": look_for_mooncake,
        "system_libraries": {
            package: not look_for_mooncake or _loads(library) for library, package in SYSTEM_LIBRARIES.items()
        },
        "absent": [name for name in REAL_PACKAGES if importlib.util.find_spec(IMPORT_NAMES.get(name, name)) is None],
        "removed_variables": sorted({*variables.foreign(os.environ), *variables.taken_out()}),
        "passed_variables": variables.passed(os.environ),
        "useless_variable": variables.useless(os.environ),
    }


def _import_mooncake(wheels: Mapping[str, str]) -> Report:
    """Whether it imports; if not, why, and the variable or the other module that is to blame, where one is."""
    command = [sys.executable, "-P", "-c", IMPORT_PROBE]
    result = _probe(command)
    found: Report = {"works": result["works"], "reason": result["reason"]}
    if result["works"]:
        return found
    if result["reason"] == ABSENT:
        return found
    place = result["output"].strip()
    if place and wheels and "No module named" in result["reason"] and "site-packages" not in place:
        return {**found, "reason": f"{result['reason']}; the module mooncake is {place}", "stranger": place}
    suspects = [name for name in LOADER_VARIABLES if os.environ.get(name)]
    if suspects and _probe(command, without=suspects)["works"]:
        alone = (name for name in suspects if _probe(command, without=[name])["works"])
        blamed = next(alone, " ".join(suspects))
        return {**found, "reason": f"{result['reason']}; it imports without {blamed}", "variable": blamed}
    return found


def _broken_packages() -> dict[str, str]:
    """Packages of the real backend that are there and do not import, with the reason."""
    broken = {}
    for name in REAL_PACKAGES:
        result = _probe([sys.executable, "-P", "-c", f"import {IMPORT_NAMES.get(name, name)}"])
        if not result["works"]:
            broken[name] = result["reason"]
    return broken


def _try_transports(tried: Mapping[str, str]) -> Report:
    """What came of a transfer over each; ``tried``: by transport, the device.

    They are tried in one process. Where that hangs or crashes, the transport that it was busy with is to blame, and the
    others are tried in another one.
    """
    found: Report = {}
    while left := {transport: device for transport, device in tried.items() if transport not in found}:
        result = _probe([sys.executable, "-P", "-c", TRANSPORTS_PROBE, json.dumps(left)])
        found |= {transport: told for transport, told in _described(result["output"]) if transport in left}
        if silent := [transport for transport in left if transport not in found]:
            reason = result["reason"] or "it says nothing"
            found[silent[0]] = {"works": False, "reason": reason, "proof": None}
    return found


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _probe(command: list[str], without: Sequence[str] = ()) -> Report:
    """Run a command that proves something, in the environment that ranks have; it gets a minute."""
    from bufferlab.real import lastwords
    from bufferlab.real.engine import variables
    from bufferlab.real.interpreter import our_environment

    kept = {name: value for name, value in variables.cleaned(os.environ).items() if name not in without}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            env=our_environment(kept),
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        said = (late.stdout or b"").decode(errors="replace")  # bytes, whatever was asked for
        return {"works": False, "reason": f"no result within {PROBE_TIMEOUT_S:g} s", "output": said}
    if done.returncode == 0:
        return {"works": True, "reason": "", "output": done.stdout}
    reason = lastwords.cause(done.stderr, done.returncode) or lastwords.ended(done.returncode)
    if done.returncode < 0 and (how := lastwords.ended(done.returncode)) != reason:
        reason += f"; {how}"
    return {"works": False, "reason": reason, "output": done.stdout}


def _described(output: str) -> Iterator[tuple[str, Report]]:
    """What the probe of transports said, without what a library says beside it."""
    for line in output.splitlines():
        try:
            match json.loads(line):
                case [str() as transport, {"works": bool()} as told]:
                    yield transport, told
        except ValueError:
            continue
