"""What runs in the virtual machine: the seed scenarios and the equality tests, over the rdma transport.

``python -m tools.rdma_vm.guest --results DIR --device NAME`` leaves the run directories (simulated and measured) of the
seed scenarios in DIR and, as its last act, ``result.json``. The counters in it are raw; `verdict` judges them. A case:

    name             of the scenario or test
    transport        that ran, by the run's own transport proof, whose sentences are ``evidence``
    compared         histories of a room on a rank that were compared with the simulator's (tests: 1 for the test)
    differences      sentences; empty when simulator and real run agree
    written_bytes    payload that the encode ranks wrote
    port_before, port_after   all counters of the RDMA port
    loopback_bytes   what the loopback interface sent meanwhile: control messages, not payload
    wall_s           in emulation, so it says nothing about speed
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from bufferlab.real.hosts.processes import warm_up

ROOT = Path(__file__).resolve().parents[2]
EQUALITY_TESTS = ROOT / "tests" / "real" / "test_equality.py"
SCENARIOS = ("seed-small", "seed-resume", "seed-failure")
TEST_LIMIT_S = 400.0
IMPORTS_S = 600.0
"""What the imports of the ranks may take, once for all of them: in emulation a minute and more."""


class Watch:
    """The counters around one run."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.port_before = port_counters(device)
        self._loopback_before = _number(Path("/sys/class/net/lo/statistics/tx_bytes"))
        self._started_s = time.perf_counter()

    def seen(self) -> dict[str, Any]:
        """The case's fields that come from counters and the clock."""
        return {
            "port_before": self.port_before,
            "port_after": port_counters(self.device),
            "loopback_bytes": _number(Path("/sys/class/net/lo/statistics/tx_bytes")) - self._loopback_before,
            "wall_s": time.perf_counter() - self._started_s,
        }


def port_counters(device: str) -> dict[str, int]:
    """All counters of the device's port 1. Raises OSError when there is no such device."""
    folder = Path("/sys/class/infiniband") / device / "ports/1/hw_counters"
    return {file.name: _number(file) for file in folder.iterdir() if file.name != "lifespan"}


def run_scenario(name: str, device: str, folder: Path) -> dict[str, Any]:
    """Simulate and measure a shipped example, compare the two, and report the case."""
    from bufferlab.experiments.runs.equality import compare_runs
    from bufferlab.experiments.runs.measure import run_measured
    from bufferlab.experiments.runs.rundir import StoredRun
    from bufferlab.experiments.runs.simulate import run_sim
    from bufferlab.experiments.workloads.loading import load
    from bufferlab.protocol.recording import Event

    config = load(name, ["real.transport=rdma", f"real.device={json.dumps(device)}"])
    run_sim(config, folder / f"{name}-sim")
    watch = Watch(device)
    run_measured(config, folder / f"{name}-real")
    seen = watch.seen()
    measured = folder / f"{name}-real"
    compared = compare_runs(folder / f"{name}-sim", measured)
    proof = json.loads((measured / "environment.json").read_text())["transport_proof"]
    summary = json.loads((measured / "summary.json").read_text())
    differences = list(compared["differences"])
    if summary["invariant_violations"]:
        differences.append(f"{summary['invariant_violations']} violations or mismatches of data")
    return {
        "name": name,
        "transport": proof["actual"],
        "evidence": proof["evidence"],
        "compared": compared["histories"],
        "differences": differences,
        "written_bytes": sum(
            record.bytes for _, record in StoredRun(measured).records() if record.event is Event.WRITE_DONE
        ),
        **seen,
    }


class OverRdma:
    """A pytest plugin: the same tests, with every measured run over the RDMA device."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.cases: list[dict[str, Any]] = []
        self._running = ""

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        """Put our own ``run_real`` in the place of the one that the test file imported."""
        for module in {item.module for item in items}:
            module.run_real = self._watched(module.run_real)
        for item in items:
            # Their own limits are for a machine that is not emulated.
            item.add_marker(pytest.mark.timeout(TEST_LIMIT_S), append=False)

    def pytest_runtest_setup(self, item: Any) -> None:
        """Remember which test runs."""
        self._running = item.name

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A test that fails makes its runs differ, and is told in full on the console."""
        if report.when == "call" or report.failed:
            name = report.nodeid.rpartition("::")[2]
            print(f"{name}: {report.duration:.1f} s, {report.outcome} in {report.when}", flush=True)
        if report.failed:
            print(report.longreprtext, flush=True)
            for case in self.cases:
                if case["name"] == self._running:
                    case["differences"].append(
                        f"the test failed in {report.when}: {report.longreprtext.splitlines()[-1]}"
                    )

    def _watched(self, run_real: Any) -> Any:
        from bufferlab.protocol.recording import Event

        @functools.wraps(run_real)
        def watched(*arguments: Any, **options: Any) -> Any:
            watch = Watch(self.device)
            outcome = run_real(*arguments, **{**options, "transport": "rdma", "device": self.device})
            self.cases.append(
                {
                    "name": self._running,
                    "transport": outcome.proof.actual,
                    "evidence": list(outcome.proof.evidence),
                    "compared": 1,
                    "differences": [],
                    "written_bytes": sum(one.bytes for one in outcome.records if one.event is Event.WRITE_DONE),
                    **watch.seen(),
                }
            )
            return outcome

        return watched


def run_tests(expression: str, device: str) -> tuple[int, list[dict[str, Any]]]:
    """pytest's exit status (5 when the expression chooses no test) and the cases."""
    plugin = OverRdma(device)
    # Importing plugins that these tests do not need takes a minute in emulation; one has settings in pyproject.toml.
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    plain = ["-p", "pytest_timeout", "-p", "no:cacheprovider", "-p", "no:terminalreporter", "-s"]
    options = ["--override-ini=addopts=", "--import-mode=importlib", "--strict-markers", *plain]
    status = pytest.main([*options, "-k", expression, str(EQUALITY_TESTS)], plugins=[plugin])
    return int(status), plugin.cases


def main() -> int:
    """Run everything and leave the results."""
    parser = argparse.ArgumentParser(prog="tools.rdma_vm.guest")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--tests", required=True, help="an expression for pytest -k, empty for no tests")
    chosen = parser.parse_args()
    warm_up(IMPORTS_S)
    before = port_counters(chosen.device)
    cases = []
    with tempfile.TemporaryDirectory() as folder:
        for name in SCENARIOS:
            cases.append(run_scenario(name, chosen.device, Path(folder)))
            print(f"{name}: {cases[-1]['wall_s']:.1f} s, {len(cases[-1]['differences'])} differences", flush=True)
        # The shared folder has not all that a writer of run directories may want; a plain copy it can take.
        shutil.copytree(folder, chosen.results, dirs_exist_ok=True)
    tests_status = None
    if chosen.tests:
        tests_status, test_cases = run_tests(chosen.tests, chosen.device)
        cases += test_cases
    result = {
        "schema": 1,
        "device": chosen.device,
        "kernel": f"Linux {platform.release()}",
        "job_started_s": float(os.environ.get("RDMA_VM_STARTED_S", "nan")),
        "job_ended_s": float(Path("/proc/uptime").read_text().split()[0]),
        "port_before": before,
        "port_after": port_counters(chosen.device),
        "cases": cases,
        "tests_status": tests_status,
    }
    unfinished = chosen.results / "result.unfinished"
    unfinished.write_text(json.dumps(result, indent=2) + "\n")
    unfinished.rename(chosen.results / "result.json")
    return 0


def _number(path: Path) -> int:
    return int(path.read_text())


if __name__ == "__main__":
    sys.exit(main())
