"""The reference of settings is made of the sections, says what they do, and the page that shows it is up to date."""

import importlib.util
import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.commands.completing.line import complete, parse_line
from bufferlab.experiments.config import reference
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.config.sections.base import Section
from bufferlab.experiments.config.services import profile_names
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.faults import KINDS, RATES, SETTINGS
from bufferlab.protocol.sizing.registry import POLICIES

ROOT = Path(__file__).resolve().parents[2]
EVERY = {one.key: one for one in reference.settings()}


def paths(section: type[Section], path: str = "") -> set[str]:
    """Every setting by its path, found another way than the reference finds them."""
    schema = Config.model_json_schema()

    def inner(node: dict[str, Any], path: str) -> set[str]:
        if "$ref" in node:
            return inner(schema["$defs"][node["$ref"].rpartition("/")[2]], path)
        if "anyOf" in node:
            found = [inner(one, path) for one in node["anyOf"] if one.get("type") != "null"]
            return max(found, key=len)
        if node.get("type") == "array" and "$ref" in node["items"]:
            return inner(node["items"], f"{path}N.")
        if "properties" in node:
            return {one for name, below in node["properties"].items() for one in inner(below, f"{path}{name}.")}
        return {path.removesuffix(".")}

    return inner(schema, path)


def test_every_setting_is_there_and_explained() -> None:
    options = {f"protocol.sizing.{name}" for policy in POLICIES for name in reference.options_of(policy)}
    assert set(EVERY) == paths(Config) | options
    for one in EVERY.values():
        assert one.meaning.endswith((".", "?")), one.key
        assert one.allowed, one.key
        assert one.default, one.key


def test_defaults_are_those_of_the_sections() -> None:
    assert EVERY["protocol.sizing.tokens"].default == "1024"
    assert EVERY["protocol.sizing.tokens"].unit == "tokens"
    assert EVERY["workload.request.N.total_tokens"].default == reference.REQUIRED
    assert EVERY["language.base_s"].default == reference.UNSET
    assert (
        EVERY["protocol.sizing.window"].default
        == "512 (hint_regression, newsvendor, quantile) or 256 (per_client_quantile)"
    )
    for one in EVERY.values():
        if one.default not in (reference.REQUIRED, reference.UNSET) and "N" not in one.key.split("."):
            section, *names = one.key.split(".")
            value: Any = Config.model_validate({"workload": {"lengths": [1]}})
            for name in (section, *names):
                if name not in type(value).model_fields:  # an option of a policy
                    break
                value = getattr(value, name)
            else:
                assert one.default == reference._said(value), one.key


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("language.pool_blocks", "blocks, at least 1, or memory such as 4GiB"),
        ("encode.poll_interval_s", "a duration such as 20ms, at least 0 and at most 1"),
        ("encode.base_s", "a duration such as 20ms, at least 0"),
        ("slo.ttft_s", "a duration such as 20ms, more than 0"),
        ("workload.loop", "open, closed"),
        ("real.transport", "tcp, rdma, socket"),
        ("workload.lengths", "a list of whole numbers, at least 1"),
        ("link.bandwidth_scale", "a number, more than 0 and at most 1000"),
        ("incidents.N.rank", "a rank such as language0.1"),
    ],
)
def test_what_is_allowed(key: str, allowed: str) -> None:
    assert EVERY[key].allowed == allowed


def test_grouped_names_are_all_of_the_profiles() -> None:
    for side in ("encode", "language"):
        text = EVERY[f"{side}.profile"].allowed
        devices = text.partition("DEVICE is ")[2].partition(";")[0].split(", ")
        models = text.partition("MODEL is ")[2].partition(")")[0].split(", ")
        made = {"instant", *(f"{device}-{model}" for device in devices for model in models)}
        assert made == set(profile_names(side))  # type: ignore[arg-type]


class Reads(set[str]):
    """Which settings of a configuration are looked at while it is run."""

    def __init__(self, config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        plain = Section.__getattribute__
        sections = {id(getattr(config, name)): name for name in Config.model_fields}
        sections[id(config.protocol.sizing)] = "protocol.sizing"

        def watched(section: Section, name: str) -> Any:
            place = sections.get(id(section))
            if place is not None:
                self.add(f"{place}.{name}")
            return plain(section, name)

        monkeypatch.setattr(Section, "__getattribute__", watched, raising=False)


def test_each_setting_does_something_in_the_runs_that_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from bufferlab.experiments.runs import measure
    from bufferlab.experiments.runs.simulate import simulate_one

    config = load("seed-small", ["random_faults.failed_writes=0.1"])
    with monkeypatch.context() as patch:
        simulated = Reads(config, patch)
        simulate_one(config, 0)
    launcher = types.ModuleType("launcher")
    launcher.run_real = lambda scenario, requests, **given: given  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bufferlab.real.run.launcher", launcher)
    with monkeypatch.context() as patch:
        measured = Reads(config, patch)
        measure._measure_one(config, 0, None, None, measure.Glances())
        measure.RunRecorder(config, None).finish(
            1.0, deadlock=False
        )  # the figures of a run, which a simulated one has already

    told = {key: one.world for key, one in EVERY.items() if not key.startswith("random_faults.")}
    assert {key for key in measured if told.get(key) == "simulated"} == set()
    assert {key for key in simulated if told.get(key) == "measured"} == set()
    assert {key for key, world in told.items() if world == "measured"} <= measured
    assert {key for key, world in told.items() if world == "simulated" and "N" not in key.split(".")} <= simulated
    assert (simulated ^ measured) & {key for key, world in told.items() if world == "both"} == set()


def test_faults_that_cannot_be_measured_are_told_as_such() -> None:
    for name, rate in RATES.items():
        assert EVERY[f"random_faults.{name}"].world == ("simulated" if rate.not_measured else "both"), name
    measured = {name for kind in KINDS.values() if not kind.not_measured for name in kind.settings()}
    for name in SETTINGS:
        assert EVERY[f"incidents.N.{name}"].world == ("both" if name in measured else "simulated"), name


def test_the_command_finds_settings_by_a_part_of_their_name(bufferlab: Any) -> None:
    found = bufferlab("settings", "pool")
    assert found.status == 0
    assert "encode.pool_blocks\n  default: 256 blocks\n  allowed: blocks" in found.out
    listed = json.loads(bufferlab("settings", "--json").out)["settings"]
    assert [one["key"] for one in listed] == list(EVERY)
    assert [line.split()[0] for line in bufferlab("settings").out.splitlines()[:-2]] == list(EVERY)
    # The very name comes before those that contain it.
    assert bufferlab("settings", "tp").out.startswith("encode.tp\n")
    assert bufferlab("settings", "protocol.sizing.q").out.startswith("protocol.sizing.q\n")
    refused = bufferlab("settings", "pol_blocks")
    assert (refused.status, refused.out) == (2, "")
    assert refused.err == "bufferlab: KEY is 'pol_blocks', which is in no setting's name (did you mean pool_blocks?).\n"


def test_a_key_is_completed() -> None:
    offered = [one.word for one in complete(parse_line("bufferlab settings language.p"))]
    assert offered == [key for key in EVERY if key.startswith("language.p")]
    assert "language.pool_blocks" in offered


def test_infinitely_many_processors_are_allowed(tmp_path: Path) -> None:
    profile = tmp_path / "host.toml"
    shipped = ROOT / "bufferlab" / "sim" / "profiles" / "tcp-loopback.toml"
    profile.write_text(f"{shipped.read_text()}\n[host]\nprocessors = 2\n")
    config = load("seed-small", [f"link.profile={profile}", "link.processors=inf"])
    host = config.link.load().host
    assert host is not None
    assert host.processors == float("inf")
    assert config.resolved().resolved() == config.resolved()


def page_tool() -> Any:
    spec = importlib.util.spec_from_file_location("bufferlab_settings_page", ROOT / "tools" / "settings_page.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    return tool


def test_the_page_is_up_to_date() -> None:
    assert page_tool().main(["--check"]) == 0, "run python tools/settings_page.py"


def test_a_page_that_is_not_is_told_and_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tool = page_tool()
    page = tmp_path / "settings.md"
    text = tool.PAGE.read_text(encoding="utf-8")
    page.write_text(text.replace("| `run.seed` | `1`", "| `run.seed` | `2`"), encoding="utf-8")
    monkeypatch.setattr(tool, "PAGE", page)
    assert tool.main(["--check"]) == 1
    assert "out of date" in capsys.readouterr().err
    assert tool.main([]) == 0
    assert page.read_text(encoding="utf-8") == text
    page.write_text("nothing", encoding="utf-8")
    assert tool.main([]) == 2
