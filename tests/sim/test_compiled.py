"""The compiled copy of the cores does the same, byte for byte. Opt-in: compiling takes half a minute and a C compiler."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None and shutil.which("cc") is None, reason="no C compiler")

RUN = """
import sys
from experiments.workloads.loading import load
from experiments.runs.rundir import RunWriter
from experiments.runs.simulate import simulate_one
from experiments.runs.environment import compiled_copy
from pathlib import Path

Path("host.toml").write_text('''
latency_s = 0.3e-3
per_segment_s = 0.1e-3
bandwidth_Bps = 2.4e9
control_latency_s = 0.25e-3
copy_bandwidth_Bps = 12e9
[host]
processors = 2
input_s = 0.1e-3
write_processors = 1.2
collective_processors = 0.6
collective_quantiles_s = [0.2e-3, 0.5e-3, 4e-3]
''')

for example, settings in (
    ("quickstart", ["workload.requests=200"]),
    ("mixed", ["workload.requests=150", "encode.tp=2", "language.tp=3", "language.release=prefill"]),
    ("ustudy", ["workload.requests=100", "language.instances=2", "encode.transfer_workers=2",
                "protocol.discipline=alloc_then_free", "protocol.timeout_s=20s"]),
    ("faults", ["workload.requests=150"]),
    ("validation-case", ["link.profile=host.toml", "encode.tp=2", "language.tp=2"]),
):
    config = load(example, settings)
    target = Path(sys.argv[1]) / example
    with RunWriter(target, config) as writer:
        one, violations = simulate_one(config, 0, writer)
        writer.finish({}, {})
        writer.publish()
    assert not violations, violations
print("compiled" if compiled_copy() is not None else "plain")
"""


def test_what_is_compiled_is_there() -> None:
    listed = runpy.run_path(str(ROOT / "tools" / "compile_core.py"))["MODULES"]
    assert len(listed) > 20
    assert [name for name in listed if not (ROOT / name).is_file()] == []


@pytest.mark.slow
@needs_compiler
def test_the_compiled_copy_writes_the_same_bytes(tmp_path: Path) -> None:
    built = subprocess.run(
        [sys.executable, "tools/compile_core.py", "--out", str(tmp_path / "compiled")],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    for code, path in (("plain", None), ("compiled", str(tmp_path / "compiled"))):
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        if path is not None:
            environment["PYTHONPATH"] = path
        done = subprocess.run(
            [sys.executable, "-c", RUN, str(tmp_path / code)],
            env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.stdout.split() == [code], done.stderr
    for example in ("quickstart", "mixed", "ustudy", "faults", "validation-case"):
        for name in ("events.parquet", "requests.parquet"):
            plain, compiled = ((tmp_path / code / example / name).read_bytes() for code in ("plain", "compiled"))
            assert plain == compiled, (example, name)


@pytest.mark.slow
def test_a_copy_of_other_sources_is_refused(tmp_path: Path) -> None:
    copy = tmp_path / "compiled"
    shutil.copytree(ROOT / "protocol", copy / "protocol")
    (copy / "compiled.txt").write_text("0" * 64)
    done = subprocess.run(
        [sys.executable, "-m", "experiments", "examples"],
        env={**os.environ, "PYTHONPATH": str(copy)}, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "a compiled copy of other sources than these; run: make compiled" in done.stderr
