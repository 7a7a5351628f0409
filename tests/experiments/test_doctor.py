import json
from typing import Any

import pytest

from experiments import doctor
from experiments.doctor import Report, examine, mend_commands, report_text

HEALTHY: Report = {
    "system_libraries": dict.fromkeys(doctor.SYSTEM_LIBRARIES.values(), True),
    "mooncake_wheels": {"mooncake-transfer-engine-non-cuda": "0.3.13"},
    "mooncake_imports": {"works": True, "reason": ""},
    "absent": [],
}


def mend(**changes: Any) -> list[str]:
    return mend_commands({**HEALTHY, **changes})


def test_nothing_to_mend() -> None:
    assert mend() == []


def test_every_lack_has_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "/usr/bin/apt-get")
    broken = {"works": False, "reason": "x"}
    libraries = HEALTHY["system_libraries"] | {"libnuma1": False, "liburing2": False}
    assert mend(system_libraries=libraries, mooncake_imports=broken) == [
        "sudo apt-get install -y --no-install-recommends libnuma1 liburing2"
    ]
    assert mend(absent=["torch"])[0].endswith("-m pip install 'torch>=2.6'")
    assert mend(mooncake_wheels={}, mooncake_imports=broken)[0].endswith(
        "-m pip install 'mooncake-transfer-engine-non-cuda>=0.3.13'"
    )
    assert mend(mooncake_imports=broken)[0].endswith("--force-reinstall --no-deps mooncake-transfer-engine-non-cuda")
    two = {"mooncake-transfer-engine": "1", "mooncake-transfer-engine-non-cuda": "1"}
    assert [command.split("pip ")[1].split()[0] for command in mend(mooncake_wheels=two)] == ["uninstall", "install"]


def test_without_apt_the_names_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    libraries = HEALTHY["system_libraries"] | {"libnuma1": False}
    assert "what Debian calls libnuma1" in mend(system_libraries=libraries)[0]


def test_a_machine_without_the_real_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_loads", lambda library: library != "libnuma.so.1")

    def probe(command: list[str]) -> Report:
        works = "mooncake" not in command[-1] and command[-1] == doctor.SIMULATOR_PROBE
        return {"works": works, "reason": "" if works else "libnuma.so.1 not found", "output": ""}

    monkeypatch.setattr(doctor, "_probe", probe)
    found = examine()
    assert found["simulator"]["works"]
    assert not found["real"]["works"]
    text = report_text(found)
    assert "`bufferlab real` does not work here; to mend it:" in text
    assert "libnuma1" in text.splitlines()[-1]
    assert doctor.examine_real().startswith("the real backend cannot start because ")
    assert "; to mend it, run: " in doctor.examine_real()


def test_a_probe_that_hangs_or_crashes_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE_TIMEOUT_S", 0.5)
    python = doctor.sys.executable
    assert doctor._probe([python, "-c", "import time; time.sleep(30)"])["reason"] == "no result within 0.5 s"
    assert doctor._probe([python, "-c", "raise SystemExit('so it is')"])["reason"] == "so it is"
    assert doctor._probe([python, "-c", "import os; os._exit(7)"])["reason"] == "it ended with status 7"


def test_the_command(bufferlab: Any) -> None:
    ended = bufferlab("doctor", "--json")
    assert ended.status == 0, ended
    found = json.loads(ended.out)
    assert found["simulator"]["works"] is True
    assert found["transports"].keys() == {"tcp", "rdma"}
    assert all(result["works"] or result["reason"] for result in found["transports"].values())
    if found["mooncake_imports"]["works"] and not found["absent"]:
        assert found["transports"]["tcp"]["works"] is True, found["transports"]
        assert found["transports"]["tcp"]["proof"]["actual"] == "tcp"
