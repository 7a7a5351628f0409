import importlib.metadata
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.commands.doctor import report_text
from bufferlab.experiments.runs import diagnosis, remedies
from bufferlab.experiments.runs.diagnosis import Report, examine, mend_commands
from bufferlab.experiments.runs.environment import MOONCAKE_WHEELS, PACKAGES, REAL_PACKAGES, package_version

HEALTHY: Report = {
    "system_libraries": dict.fromkeys(diagnosis.SYSTEM_LIBRARIES.values(), True),
    "mooncake_wheels": {"mooncake-transfer-engine-non-cuda": "0.3.13"},
    "mooncake_imports": {"works": True, "reason": ""},
    "absent": [],
}


def mend(**changes: Any) -> list[str]:
    return mend_commands({**HEALTHY, **changes})


def test_nothing_to_mend() -> None:
    assert mend() == []


def test_every_lack_has_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedies.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(remedies.shutil, "which", lambda _: "/usr/bin/apt-get")
    broken = {"works": False, "reason": "x"}
    libraries = HEALTHY["system_libraries"] | {"libnuma1": False, "liburing2": False}
    assert mend(system_libraries=libraries, mooncake_imports=broken) == [
        "sudo apt-get install -y --no-install-recommends libnuma1 liburing2"
    ]
    assert mend(absent=["torch"])[0].endswith("-m pip install 'torch>=2.6'")
    assert mend(mooncake_wheels={}, mooncake_imports=broken)[0].endswith(
        "-m pip install 'mooncake-transfer-engine-non-cuda>=0.3.13'"
    )
    torn = {"works": False, "reason": "No module named 'mooncake.engine'"}
    assert mend(mooncake_imports=torn)[0].endswith("--force-reinstall --no-deps mooncake-transfer-engine-non-cuda")
    two = {"mooncake-transfer-engine": "1", "mooncake-transfer-engine-non-cuda": "1"}
    assert [command.split("pip ")[1].split()[0] for command in mend(mooncake_wheels=two)] == ["uninstall", "install"]


def broken(reason: str, **more: str) -> Report:
    return {"works": False, "reason": reason, **more}


def test_a_command_is_for_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedies.os, "geteuid", lambda: 0)
    monkeypatch.setattr(remedies.shutil, "which", lambda name: name if name == "apt-get" else None)
    missing = "{}: cannot open shared object file: No such file or directory".format
    apt = "apt-get install -y --no-install-recommends"
    cases = {
        missing("libcurl.so.4"): f"{apt} libcurl4",
        missing("libgomp.so.1"): f"{apt} libgomp1",
        missing("libodd.so.7"): "# install the package of your system that has libodd.so.7",
        "/lib/libc.so.6: version `GLIBC_2.34' not found (required by engine.so)": "# GLIBC_2.34 comes with a newer system",
        "/opt/x/libstdc++.so.6: version `GLIBCXX_3.4.30' not found": "# /opt/x/libstdc++.so.6 is older than the wheel",
        "it needs instructions that this processor does not have (SIGILL)": "# the wheel is built for newer processors",
        "engine.so: undefined symbol: glDraw": f"{diagnosis.sys.executable} -m pip install --force-reinstall --no-deps moon",
    }
    for reason, start in cases.items():
        first = next(line for line in mend(mooncake_imports=broken(reason)) if not line.endswith("update"))
        assert first.startswith(start)
    gpu = mend(mooncake_wheels={"mooncake-transfer-engine": "1"}, mooncake_imports=broken(missing("libcudart.so.12")))
    assert gpu[0].endswith("uninstall -y mooncake-transfer-engine")
    assert gpu[1].endswith("install 'mooncake-transfer-engine-non-cuda>=0.3.13'")
    # Nothing to reinstall where the installation is not to blame.
    assert mend(mooncake_imports=broken("x", variable="LD_PRELOAD")) == ["unset LD_PRELOAD"]
    assert mend(mooncake_imports=broken("Check failed: something new")) == []
    assert mend(broken={"torch": "x"})[0].endswith("-m pip install --force-reinstall 'torch>=2.6'")


def test_where_dnf_is_the_names_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedies.os, "geteuid", lambda: 0)
    monkeypatch.setattr(remedies.shutil, "which", lambda name: name if name == "dnf" else None)
    libraries = HEALTHY["system_libraries"] | {"libnuma1": False, "libibverbs1": False}
    assert mend(system_libraries=libraries) == ["dnf install -y libibverbs numactl-libs"]


def test_another_module_of_that_name_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder / "elsewhere"
    (other / "mooncake").mkdir(parents=True)
    (other / "mooncake" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(other))
    monkeypatch.setattr(diagnosis, "package_version", lambda name: "1" if "non-cuda" in name else None)
    monkeypatch.setattr(diagnosis, "_loads", lambda _: True)
    monkeypatch.setattr(diagnosis, "REAL_PACKAGES", ())
    told = diagnosis.examine_real()
    assert f"the module mooncake is {other / 'mooncake'})" in told
    assert told.endswith(
        f"{other / 'mooncake'} stands in the way of Mooncake's own modules: rename or remove it; {remedies.WITHOUT_MOONCAKE}"
    )
    assert "pip" not in told


def test_a_folder_of_that_name_in_the_working_folder_is_in_nobodys_way(folder: Path) -> None:
    (folder / "mooncake").mkdir()
    (folder / "mooncake" / "__init__.py").write_text("raise RuntimeError('imported from the folder of the user')\n")
    found = diagnosis._import_mooncake({})
    assert "the folder of the user" not in found["reason"]
    assert str(folder) not in found["reason"]


def test_a_variable_of_the_loader_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", "/broken")
    monkeypatch.setenv("LD_PRELOAD", "")

    def probe(command: list[str], without: Any = ()) -> Report:
        works = "LD_LIBRARY_PATH" in without
        return {"works": works, "reason": "" if works else "/broken/libnuma.so.1: file too short", "output": ""}

    monkeypatch.setattr(diagnosis, "_probe", probe)
    found = diagnosis._import_mooncake({"mooncake-transfer-engine-non-cuda": "1"})
    assert found["variable"] == "LD_LIBRARY_PATH"
    assert found["reason"] == "/broken/libnuma.so.1: file too short; it imports without LD_LIBRARY_PATH"


@pytest.mark.parametrize("name", ["MC_LOG_DIR", "MC_USE_IPV6", "GLOG_log_dir", "HTTP_PROXY", "OMP_NUM_THREADS"])
def test_what_another_deployment_left_is_named_and_taken_from_the_probes(
    bufferlab: Any, folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1" if name in ("MC_USE_IPV6", "OMP_NUM_THREADS") else str(folder))
    environments: list[dict[str, str]] = []
    really_run = subprocess.run

    def run(*arguments: Any, **options: Any) -> Any:
        if "env" not in options:  # not a probe: platform asks uname
            return really_run(*arguments, **options)
        environments.append(options["env"])
        return subprocess.CompletedProcess([], 0, stdout="", stderr="")

    monkeypatch.setattr(diagnosis.subprocess, "run", run)
    ended = bufferlab("doctor")
    assert ended.status == 0, ended
    assert name in ended.out.split("left out of the engine's environment: ")[1].splitlines()[0].split(", ")
    assert environments
    assert all(name not in one for one in environments)


def test_without_apt_the_names_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remedies.shutil, "which", lambda _: None)
    libraries = HEALTHY["system_libraries"] | {"libnuma1": False}
    assert "what Debian calls libnuma1" in mend(system_libraries=libraries)[0]


def test_a_machine_without_the_real_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_loads", lambda library: library != "libnuma.so.1")

    def probe(command: list[str], without: Any = ()) -> Report:
        works = "mooncake" not in command[-1] and command[-1] == diagnosis.SIMULATOR_PROBE
        return {"works": works, "reason": "" if works else "libnuma.so.1 not found", "output": ""}

    monkeypatch.setattr(diagnosis, "_probe", probe)
    found = examine()
    assert found["simulator"]["works"]
    assert not found["real"]["works"]
    text = report_text(found)
    assert "`bufferlab real` does not work here; to mend it:" in text
    assert "libnuma1" in text.partition("to mend it:")[2]
    assert diagnosis.examine_real().startswith("the real backend cannot start because ")
    assert "; to mend it, run: " in diagnosis.examine_real()


def test_a_probe_that_hangs_or_crashes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "PROBE_TIMEOUT_S", 0.5)
    python = diagnosis.sys.executable
    assert diagnosis._probe([python, "-c", "import time; time.sleep(30)"])["reason"] == "no result within 0.5 s"
    assert diagnosis._probe([python, "-c", "raise SystemExit('so it is')"])["reason"] == "so it is"
    assert diagnosis._probe([python, "-c", "import os; os._exit(7)"])["reason"] == "it ended with status 7"


TOLD = {name: {"works": True, "reason": "", "proof": {"actual": name}} for name in ("a", "b", "c")}


@pytest.mark.parametrize("how", ["hangs", "crashes", "says nothing"])
def test_one_transport_that_ends_the_probe_is_named_and_the_others_are_tried(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    ends = {"hangs": "time.sleep(60)", "crashes": "os.abort()", "says nothing": "sys.exit()"}
    monkeypatch.setattr(diagnosis, "PROBE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(
        diagnosis,
        "TRANSPORTS_PROBE",
        f"""
import json, os, sys, time
print("5")
print("a library's greeting")
for name in json.loads(sys.argv[1]):
    if name == "b":
        {ends[how]}
    print(json.dumps([name, {TOLD!r}[name]]), flush=True)
""",
    )
    found = diagnosis._try_transports({"a": "", "b": "dev", "c": ""})
    reason = {"hangs": "no result within 1 s", "crashes": "it aborted (SIGABRT)", "says nothing": "it says nothing"}[
        how
    ]
    assert found == {**TOLD, "b": {"works": False, "reason": reason, "proof": None}}


@pytest.mark.real
def test_a_transport_that_fails_keeps_no_other_from_its_iteration() -> None:
    pytest.importorskip("torch", reason="needs torch")
    found = diagnosis._try_transports({"none": "", "socket": ""})
    assert not found["none"]["works"]
    assert "transport is 'none', it must be one of" in found["none"]["reason"]
    assert found["socket"]["works"], found


def test_the_command(bufferlab: Any) -> None:
    ended = bufferlab("doctor", "--json")
    assert ended.status == 0, ended
    found = json.loads(ended.out)
    assert found["simulator"]["works"] is True
    assert found["transports"].keys() >= {"tcp", "rdma", "socket"}
    assert all(result["works"] or result["reason"] for result in found["transports"].values())
    if found["mooncake_imports"]["works"] and not found["absent"]:
        assert found["transports"]["tcp"]["works"] is True, found["transports"]
        assert found["transports"]["tcp"]["proof"]["actual"] == "tcp"
    if not found["absent"]:
        assert found["transports"]["socket"]["works"] is True, found["transports"]
        assert found["transports"]["socket"]["proof"]["actual"] == "socket"


@pytest.mark.parametrize(("system", "machine"), [("Darwin", "arm64"), ("Linux", "aarch64")])
def test_where_mooncake_cannot_be_installed_the_socket_engine_is_the_remedy(
    monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    monkeypatch.setattr(remedies.platform, "system", lambda: system)
    monkeypatch.setattr(remedies.platform, "machine", lambda: machine)
    none = {"mooncake_wheels": {}, "mooncake_imports": broken(diagnosis.ABSENT)}
    libraries = dict.fromkeys(HEALTHY["system_libraries"], False)
    (line,) = mend(**none, system_libraries=libraries)
    assert line.startswith(
        f"# Mooncake's wheels are for Linux on x86-64, this is {system} on {machine}: without Mooncake"
    )
    assert "--transport socket" in line
    first, last = mend(**none, system_libraries=libraries, absent=["torch"])
    assert first.endswith("-m pip install 'torch>=2.6'")
    assert last == line


def test_without_mooncake_only_socket_works_and_is_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(command: list[str], without: Any = ()) -> Report:
        if command[-1] == json.dumps({"socket": ""}):
            told = {"works": True, "reason": "", "proof": {"actual": "socket"}}
            return {"works": True, "reason": "", "output": json.dumps(["socket", told])}
        works = command[-1] == diagnosis.SIMULATOR_PROBE
        return {"works": works, "reason": "" if works else diagnosis.ABSENT, "output": ""}

    monkeypatch.setattr(diagnosis, "_probe", probe)
    monkeypatch.setattr(diagnosis, "package_version", lambda name: None if "mooncake" in name else "1")
    monkeypatch.setattr(diagnosis, "REAL_PACKAGES", ())
    found = examine()
    assert found["real"] == {"works": True, "only": "socket"}
    assert not found["transports"]["tcp"]["works"]
    text = report_text(found)
    assert "`bufferlab real` works here over socket alone, which needs no Mooncake: add --transport socket" in text
    assert "-m pip install 'mooncake-transfer-engine-non-cuda>=0.3.13'" in text.splitlines()[-1]
    assert diagnosis.examine_real("tcp").endswith(remedies.WITHOUT_MOONCAKE)
    assert diagnosis.examine_real("socket") == ""


def test_versions_are_those_that_the_installer_knows() -> None:
    def known(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    names = (*PACKAGES, *REAL_PACKAGES, *MOONCAKE_WHEELS, "no-such-package")
    assert {name: package_version(name) for name in names} == {name: known(name) for name in names}
