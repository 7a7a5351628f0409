"""What is installed here, what really works, and the exact command that mends what does not."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.environment import (
    MOONCAKE_WHEELS,
    PACKAGES,
    REAL_PACKAGES,
    describe_host,
    package_version,
    rdma_devices,
)
from experiments.present import table

SYSTEM_LIBRARIES = {
    "libibverbs.so.1": "libibverbs1",
    "librdmacm.so.1": "librdmacm1",
    "libnuma.so.1": "libnuma1",
    "liburing.so.2": "liburing2",
}
"""What Mooncake loads, also for tcp: shared library to Debian package."""

MOONCAKE_REQUIREMENT = "mooncake-transfer-engine-non-cuda>=0.3.13"
REAL_REQUIREMENTS = {"torch": "torch>=2.6", "pyzmq": "pyzmq>=27.0", "aiohttp": "aiohttp>=3.12", "psutil": "psutil>=7.0"}
IMPORT_NAMES = {"pyzmq": "zmq"}
PROBE_TIMEOUT_S = 60.0

SIMULATOR_PROBE = """
from experiments.loading import load
from experiments.runner import simulate_one
one, broken = simulate_one(load("seed-resume"), 0)
assert one.statuses == {"Success": 1} and not one.violations, (one.statuses, broken)
"""

TRANSPORT_PROBE = """
import json, sys
import msgspec
from protocol.scenario import Request, Scenario
from real.launcher import run_real
scenario = Scenario(block_tokens=16, hidden=64, sizing_options={"tokens": 64}, timeout_s=20.0)
outcome = run_real(scenario, [Request(1, 0.0, 100)], transport=sys.argv[1], device=sys.argv[2])
assert not outcome.mismatches, outcome.mismatches[0]
assert outcome.verified_bytes == 100 * scenario.layout.bytes_per_token, f"{outcome.verified_bytes} bytes verified"
print(json.dumps(msgspec.to_builtins(outcome.proof)))
"""

Report = dict[str, Any]


def examine(say: Callable[[str], None] = lambda _: None) -> Report:
    """Look at everything. Nothing that may hang or crash runs in this process."""
    say("the simulator")
    simulator = _probe([sys.executable, "-c", SIMULATOR_PROBE])
    say("the import of Mooncake")
    installed = _installed()
    absent = installed["absent"]
    devices = rdma_devices()
    found: Report = {
        "python": platform.python_version(),
        "host": describe_host(),
        "packages": {name: package_version(name) for name in (*PACKAGES, *REAL_PACKAGES)},
        **installed,
        "rdma_devices": devices,
        "simulator": {"works": simulator["works"], "reason": simulator["reason"]},
        "transports": {},
    }
    for transport in ("tcp", "rdma"):
        if not installed["mooncake_imports"]["works"]:
            result: Report = {"works": False, "reason": "Mooncake cannot be imported", "proof": None}
        elif absent:
            result = {"works": False, "reason": f"{' and '.join(absent)} not installed", "proof": None}
        elif transport == "rdma" and not devices:
            result = {"works": False, "reason": "no RDMA device on this host", "proof": None}
        else:
            say(f"a real transfer over {transport}")
            device = devices[0] if transport == "rdma" else ""
            result = _probe([sys.executable, "-c", TRANSPORT_PROBE, transport, device])
            result["proof"] = _last_json(result.pop("output")) if result["works"] else None
        found["transports"][transport] = {key: result[key] for key in ("works", "reason", "proof")}
    found["real"] = {"works": any(one["works"] for one in found["transports"].values())}
    found["mend"] = mend_commands(found)
    return found


def examine_real() -> str:
    """Why the real backend cannot start here, in one sentence with the command that mends it; empty when it can.

    Quicker than ``examine``: it looks and imports, but transfers nothing.
    """
    found = _installed()
    if found["absent"]:
        reason = f"{' and '.join(found['absent'])} {'is' if len(found['absent']) == 1 else 'are'} not installed"
    elif not found["mooncake_imports"]["works"]:
        reason = f"Mooncake cannot be imported ({found['mooncake_imports']['reason']})"
    else:
        return ""
    commands = mend_commands(found)
    mend = f"; to mend it, run: {' && '.join(commands)}" if commands else ""
    return f"the real backend cannot start because {reason}{mend}"


def _installed() -> Report:
    """What the commands that mend depend on."""
    mooncake = _probe([sys.executable, "-c", "import mooncake.engine"])
    return {
        "mooncake_wheels": {name: version for name in MOONCAKE_WHEELS if (version := package_version(name))},
        "mooncake_imports": {"works": mooncake["works"], "reason": mooncake["reason"]},
        "system_libraries": {package: _loads(library) for library, package in SYSTEM_LIBRARIES.items()},
        "absent": [name for name in REAL_PACKAGES if importlib.util.find_spec(IMPORT_NAMES.get(name, name)) is None],
    }


def mend_commands(found: Report) -> list[str]:
    """Commands to type, in order, so that the real backend works; none if it does."""
    commands = []
    missing_libraries = [package for package, loads in found["system_libraries"].items() if not loads]
    if missing_libraries:
        prefix = "" if os.geteuid() == 0 else "sudo "
        if shutil.which("apt-get"):
            commands.append(f"{prefix}apt-get install -y --no-install-recommends {' '.join(missing_libraries)}")
        else:
            commands.append(f"# install with your package manager what Debian calls {' '.join(missing_libraries)}")
    pip = f"{shlex.quote(sys.executable)} -m pip"
    wheels = found["mooncake_wheels"]
    if len(wheels) > 1:
        # They install the same files, so whichever came last has broken the others.
        commands.append(f"{pip} uninstall -y {' '.join(wheels)}")
    requirements = [REAL_REQUIREMENTS[name] for name in found["absent"]]
    broken = not found["mooncake_imports"]["works"] and not missing_libraries
    if len(wheels) != 1:
        requirements.append(MOONCAKE_REQUIREMENT)
    elif broken:
        commands.append(f"{pip} install --force-reinstall --no-deps {next(iter(wheels))}")
    if requirements:
        commands.append(f"{pip} install {' '.join(shlex.quote(one) for one in requirements)}")
    return commands


def report_text(found: Report) -> str:
    """The report for a terminal."""
    rows = [("what", "state")]
    rows.append(("python", found["python"]))
    for name, version in found["packages"].items():
        absent = "not installed, runs from source" if name == "bufferlab" else "MISSING"
        rows.append((name, version or absent))
    for name, version in found["mooncake_wheels"].items() or [("mooncake", "MISSING")]:
        rows.append((name, str(version)))
    for package, loads in found["system_libraries"].items():
        rows.append((package, "loads" if loads else "MISSING"))
    rows.append(("RDMA devices", ", ".join(found["rdma_devices"]) or "none"))
    host = found["host"]
    lines = [table(rows), "", f"host: {host['cpu']}, {host['cpus']} CPUs, {host['memory_bytes'] / 2**30:.0f} GiB", ""]
    lines.append(_state("simulator", found["simulator"]))
    lines.append(_state("Mooncake imports", found["mooncake_imports"]))
    for name, result in found["transports"].items():
        lines.append(_state(f"real transfer over {name}", result))
    lines.append("")
    if found["real"]["works"]:
        lines.append("`bufferlab sim` and `bufferlab real` work here." if found["simulator"]["works"] else "")
    else:
        lines.append("`bufferlab real` does not work here" + ("; to mend it:" if found["mend"] else "."))
    lines.extend(f"    {command}" for command in found["mend"])
    return "\n".join(lines).rstrip()


def _state(name: str, result: Report) -> str:
    return f"{name}: works" if result["works"] else f"{name}: does NOT work ({result['reason']})"


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _probe(command: list[str]) -> Report:
    """Run a command that proves something; it gets a minute."""
    root = str(Path(__file__).resolve().parents[1])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))}
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            env=environment,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return {"works": False, "reason": f"no result within {PROBE_TIMEOUT_S:g} s", "output": ""}
    if done.returncode == 0:
        return {"works": True, "reason": "", "output": done.stdout}
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    reason = lines[-1] if lines else f"it ended with status {done.returncode}"
    return {"works": False, "reason": reason, "output": done.stdout}


def _last_json(output: str) -> Any:
    for line in reversed(output.splitlines()):
        try:
            return json.loads(line)
        except ValueError:
            continue
    return None
