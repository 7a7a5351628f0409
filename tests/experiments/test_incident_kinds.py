"""Every kind of incident is told once, in ``protocol.faults``: what errors, docs and both worlds say and do follows it."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.config.incidents import PARSERS, incident_of
from bufferlab.experiments.config.schema import Config
from bufferlab.experiments.config.sections.faults import Incident as Given
from bufferlab.experiments.config.sections.faults import RandomFaults
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.faults import KINDS, MOST_ALARM_S, MOST_HANG_S, RATES, SETTINGS, ClientAbort, Incident
from bufferlab.protocol.lifecycle import Instance
from bufferlab.protocol.topology import RankId, Side
from bufferlab.sim.faults import FaultPlan, PlannedFaults
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.run import simulate

DOCS = Path(__file__).resolve().parents[2] / "docs"
VALUES: dict[Any, Any] = {RankId: "encode0.0", Instance: "language0", float: 1.5, int: 2}


def given(kind: str, **changes: Any) -> dict[str, Any]:
    """What a configuration says of one incident of a kind; observers are of the other side."""
    values = {name: VALUES[type_] for name, type_ in KINDS[kind].settings().items()}
    return values | ({"observer": "language0.0"} if "observer" in values else {}) | changes


def example(kind: str) -> Incident:
    return incident_of(kind, given(kind))


def config_of(folder: Path, kind: str, **changes: Any) -> Config:
    settings = "\n".join(f"{name} = {value!r}" for name, value in given(kind, **changes).items())
    path = folder / "c.toml"
    path.write_text(f'[workload]\nlengths = [9, 9, 9]\n[[incidents]]\nkind = "{kind}"\n{settings}\n')
    return load(str(path))


def rows(page: str, start: str) -> list[list[str]]:
    """The table of a page whose first line begins with ``start``, without its head."""
    lines = (DOCS / page).read_text(encoding="utf-8").partition(f"\n{start}")[2].splitlines()[2:]
    table = lines[: next((number for number, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table]


def test_the_page_has_a_row_for_each_kind_and_says_what_the_kind_says() -> None:
    assert rows("model.md", "| incident | what happens |") == [
        [f"`{name}`", kind.happens, kind.measured] for name, kind in KINDS.items()
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_asked_for_by_the_settings_that_it_has(tmp_path: Path, kind: str) -> None:
    assert KINDS[kind].kind == kind
    assert SETTINGS.keys() >= KINDS[kind].settings().keys()
    assert config_of(tmp_path, kind).incidents[0].planned() == example(kind)
    for name in SETTINGS:
        of_others = {key: value for one in KINDS for key, value in given(one).items()}
        changed = {key: value for key, value in given(kind).items() if key != name}
        wrong = "is missing"
        if name not in given(kind):
            changed, wrong = changed | {name: of_others[name]}, "is not allowed"
        with pytest.raises(ValueError, match=f"{name} {wrong}: a {kind} has {', '.join(given(kind))}"):
            Given.model_validate({"kind": kind, **changed})


def test_every_setting_belongs_to_a_kind_and_is_described_where_users_look() -> None:
    assert {name for kind in KINDS.values() for name in kind.settings()} == SETTINGS.keys()
    fields = Given.model_fields
    assert list(fields) == ["kind", *SETTINGS]
    assert all(fields[name].description == one.what for name, one in SETTINGS.items())
    assert all(kind in (fields["kind"].description or "") for kind in KINDS)
    types = {type_ for kind in KINDS.values() for type_ in kind.settings().values()}
    assert types == {*PARSERS, float, int}


@pytest.mark.parametrize("kind", KINDS)
def test_the_simulator_carries_out_every_kind_and_counts_it_by_its_name(kind: str) -> None:
    incident = example(kind)
    faults = PlannedFaults(FaultPlan(incidents=(incident,)))
    scenario = Scenario(block_tokens=4, hidden=1, sizing_options={"tokens": 8}, encode_blocks=8, language_blocks=8)
    requests = [Request(room, 0.5 * room, 6) for room in range(1, 6)]
    simulate(scenario, requests, load_profile("tcp-loopback"), recorder=lambda *_: None, faults=faults)
    assert faults.happened == {incident.called: 1}


@pytest.mark.parametrize("kind", KINDS)
def test_a_measured_run_carries_a_kind_out_or_says_why_not(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("zmq", reason="the real backend is not installed")
    from bufferlab.real.faults import ProcessFault, carried_out, check_plan

    config, incident = config_of(tmp_path, kind), example(kind)
    if incident.not_measured:
        sentence = f"incidents.0.kind is '{kind}', which {incident.not_measured}"
        with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
            config.check_real(2**40)
        with pytest.raises(ValueError, match=re.escape(incident.not_measured)):
            carried_out(incident)
        return
    config.check_real(2**40)
    done = carried_out(incident)
    check_plan([done], [RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0)], [1, 2])
    assert isinstance(done, ProcessFault) is incident.of_processes
    # The page on measured runs says what is done.
    assert f"`{type(done).__name__}`" in (DOCS / "real-faults.md").read_text(encoding="utf-8")
    if incident.of_processes:
        with pytest.raises(UserError, match=f"incidents.0.kind is '{kind}', which needs all ranks on this host"):
            config.check_real(None)
    else:
        config.check_real(None)


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        ("hang", {"lasts_s": MOST_HANG_S + 1}, "lasts_s of a hang is 11.0, it must be at least 0 and at most 10.0"),
        ("false-alarm", {"lasts_s": MOST_ALARM_S + 1}, "lasts_s of a false alarm is 16.0, it must be at least 0 and"),
        ("slow", {"factor": 0.5}, "factor of a slow rank is 0.5, it must be at least 1 and finite"),
        ("slow", {"factor": math.inf}, "factor of a slow rank is inf, it must be at least 1 and finite"),
        ("restart", {"lasts_s": -1.0}, "lasts_s of a restart is -1.0, it must not be negative"),
        ("restart", {"lasts_s": math.inf}, "lasts_s of a restart is inf, it must be finite"),
        ("death", {"time_s": math.nan}, "time_s of a death is nan, it must not be negative"),
        ("abort", {"time_s": -1.0}, "time_s of a client abort is -1.0, it must not be negative"),
        ("false-alarm", {"observer": "encode0.1"}, "observer of a false alarm is encode0.1, it must be of the other"),
    ],
)
def test_numbers_out_of_range_are_refused_by_every_plan(kind: str, changes: dict[str, Any], sentence: str) -> None:
    incident = incident_of(kind, given(kind, **changes))
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        FaultPlan(incidents=(incident,))


def test_what_an_incident_is_called_in_a_line() -> None:
    lines = {kind: str(example(kind)) for kind in KINDS}
    assert (
        lines.items()
        >= {
            "death": "death of encode0.0 at 1.500 s",
            "restart": "restart of language0 at 1.500 s after 1.500 s",
            "hang": "hang of encode0.0 at 1.500 s for 1.500 s",
            "slow": "encode0.0 1.5 times slower",
            "abort": "abort of room 2 at 1.500 s",
            "false-alarm": "language0.0 takes encode0.0 for dead at 1.500 s for 1.500 s",
        }.items()
    )


def test_a_simulated_abort_is_told_to_the_ranks_of_its_room(tmp_path: Path) -> None:
    from bufferlab.experiments.config.build import fault_plan

    plan = fault_plan(config_of(tmp_path, "abort"), 0)
    assert plan is not None
    (abort,) = plan.incidents
    assert isinstance(abort, ClientAbort)
    assert abort.ranks == (RankId(Side.ENCODE, 0, 0), RankId(Side.LANGUAGE, 0, 0))


@pytest.mark.parametrize("name", RATES)
def test_a_rate_is_one_of_the_configuration_and_of_the_plan(tmp_path: Path, name: str) -> None:
    assert RandomFaults(**{name: 0.1}).happens
    assert getattr(FaultPlan(**{name: 0.1}), name) == 0.1
    path = tmp_path / "c.toml"
    path.write_text(f"[workload]\nlengths = [9]\n[random_faults]\n{name} = 0.1\n")
    config, reason = load(str(path)), RATES[name].not_measured
    if not reason:
        config.check_real(2**40)
        return
    with pytest.raises(UserError, match=rf"random_faults\.{name} is 0\.1, it must be 0 for a measured run, {reason}"):
        config.check_real(2**40)


def test_the_rates_of_one_thing_add_up_to_at_most_1() -> None:
    for of in {one.of for one in RATES.values()}:
        names = [name for name, one in RATES.items() if one.of == of]
        with pytest.raises(ValueError, match=f"^{', '.join(names)} are .*their sum at most 1"):
            FaultPlan(**dict.fromkeys(names, 1.1 / len(names)))
    # Of different things there may be as many as one likes.
    FaultPlan(lost_messages=1.0, failed_writes=1.0, late_requests=1.0)
