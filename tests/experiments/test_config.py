"""What a configuration may hold, and what is said about one that may not."""

import tomllib
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from bufferlab.experiments.config.overrides import apply_override
from bufferlab.experiments.config.schema import Config, parse
from bufferlab.experiments.config.sections.base import Section
from bufferlab.experiments.config.sections.faults import Incident
from bufferlab.experiments.config.sections.serving import Encode, Language
from bufferlab.experiments.config.shipped import example_names
from bufferlab.experiments.errors import UserError
from bufferlab.experiments.workloads.loading import load
from bufferlab.protocol.disciplines import DISCIPLINES
from bufferlab.protocol.emulation.scenario import WriteFault
from bufferlab.protocol.sizing import POLICIES

MINIMAL: dict[str, Any] = {"workload": {"lengths": [500]}}


def changed(*settings: str) -> dict[str, Any]:
    tree: dict[str, Any] = {"workload": {"lengths": [500]}}
    for setting in settings:
        apply_override(tree, setting)
    return tree


def refusal(*settings: str) -> str:
    with pytest.raises(UserError) as caught:
        parse(changed(*settings)).resolved()
    return str(caught.value)


def test_the_smallest_configuration_is_complete() -> None:
    config = parse(MINIMAL).resolved()
    assert config.scenario().sizing_options == {"tokens": 1024}
    assert config.scenario().hidden == 3584
    assert config.workload.requests == 1


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("protocol.block_tokns=1", "protocol.block_tokns is not a setting (did you mean block_tokens?); allowed in "),
        ("protcol.block_tokens=1", "protcol is not a setting (did you mean protocol?); allowed here: run, workload, "),
        ("protocol.block_tokens=-1", "protocol.block_tokens is -1, it must be at least 1"),
        ("protocol.block_tokens=0", "protocol.block_tokens is 0, it must be at least 1"),
        ("protocol.block_tokens=100", "protocol.block_tokens is 100, it must divide sizing.tokens, 1024, without"),
        ("protocol.block_tokens=1.5", "protocol.block_tokens is 1.5, it must be a whole number"),
        ("protocol.block_tokens=true", "protocol.block_tokens is true, it must be a whole number"),
        ("protocol.block_tokens=many", "protocol.block_tokens is 'many', it must be a whole number"),
        ("protocol.discipline=windw", "protocol.discipline is 'windw', it must be one of window, exact_announce, "),
        ("protocol.wire=tin", "protocol.wire is 'tin', it must be one of extended, sglang"),
        ("protocol.timeout_s=0", "protocol.timeout_s is 0, it must be more than 0, or \"never\""),
        ("protocol.timeout_s=soon", "protocol.timeout_s is 'soon', it must be a duration such as 5ms"),
        ("protocol.resume_first=1", "protocol.resume_first is 1, it must be true or false"),
        ("protocol.reserve_blocks=256", "protocol.reserve_blocks is 256, it must be less than language.pool_blocks"),
        ("protocol.sizing.policy=fixd", "protocol.sizing.policy is 'fixd', it must be one of fixed, "),
        ("protocol.sizing.tokens=0", "protocol.sizing.tokens is 0, it must be at least 1"),
        ("protocol.sizing.q=0.9", "protocol.sizing.q is not known to the policy fixed, which has tokens"),
        ("encode.tp=0", "encode.tp is 0, it must be at least 1"),
        ("encode.tp=65", "encode.tp is 65, it must be at most 64"),
        ("encode.instances=257", "encode.instances is 257, it must be at most 256"),
        ("encode.profile=h200", "encode.profile is 'h200', it must be one of instant, "),
        ("encode.poll_interval_s=-1ms", "encode.poll_interval_s is '-1ms', it must be a duration such as 5ms"),
        ("encode.poll_interval_s=nan", "encode.poll_interval_s is nan, it must be a duration such as 5ms"),
        ("language.pool_blocks=0", "language.pool_blocks is 0, it must be at least 1"),
        ("language.pool_blocks=lots", "language.pool_blocks is 'lots', it must be a number of blocks or the memory"),
        ("language.pool_blocks=1KiB", "language.pool_blocks is '1KiB', it must hold at least one block of "),
        ("language.pool_blocks=7", "language.pool_blocks is 7, it must be at least 8: one default allocation of"),
        ("link.profile=warp", "link.profile is 'warp', it must be one of "),
        ("model.name=gpt-2", "model.name is 'gpt-2', it must be one of "),
        ("model.deepstack_layers=3", "model has deepstack_layers without hidden"),
        ("real.transport=udp", "real.transport is 'udp', it must be one of tcp, rdma, "),
        ("run.seed=-1", "run.seed is -1, it must be at least 0"),
        ("run.replications=0", "run.replications is 0, it must be at least 1"),
        ("run.name=a/b", "run.name is 'a/b', it must be letters, digits, dots, dashes and underscores"),
        ("run=5", "run is 5, it must be a table of settings"),
        ("workload.lengths=[]", "workload.lengths is [], it must not be empty"),
        ("workload.lengths=[500, 0]", "workload.lengths.1 is 0, it must be at least 1"),
        ("workload.lengths=[nan]", "workload.lengths.0 is nan, it must be a whole number"),
        ("workload.rate_rps=0", "workload.rate_rps is 0, it must be more than 0"),
        ("workload.rate_rps=inf", "workload.rate_rps is inf, it must be a finite number"),
        ("workload.requests=0", "workload.requests is 0, it must be at least 1"),
        ("workload.text_tokens=501", "workload.text_tokens is 501, it must be at most the shortest of lengths"),
        ("workload.preset=mixd", "workload.preset is 'mixd', it must be one of "),
        ("workload.preset=mixed", "workload has a preset but no rate_rps"),
        ("faults=[{room=0}]", "faults.0.room is 0, it must be at least 1"),
        ("faults=[{room=1, destination=1}]", "faults.0.destination is 1, it must be less than language.tp, 1"),
        ("faults=[{epoch=1}]", "faults.0.room is missing, it must be given"),
    ],
)  # fmt: skip
def test_each_problem_is_one_sentence(setting: str, sentence: str) -> None:
    found = refusal(setting)
    assert found.startswith(sentence), found
    assert "\n" not in found
    assert "pydantic" not in found


def test_the_sglang_wire_has_the_forks_discipline_and_refuses_what_its_frames_cannot_say() -> None:
    assert parse(changed()).scenario().wire == "extended"
    scenario = parse(changed("protocol.wire=sglang")).resolved().scenario()
    assert (scenario.wire, scenario.discipline) == ("sglang", "alloc_then_free")
    named = parse(changed("protocol.wire=sglang", "protocol.discipline=free_then_alloc"))
    assert named.resolved().protocol.discipline == "free_then_alloc"
    for setting, sentence in (
        ("protocol.discipline=window", "protocol.discipline is 'window', it must be one of alloc_then_free, "),
        ("protocol.discipline=exact_announce", "protocol.discipline is 'exact_announce', it must be one of "),
        ("protocol.resume_tokens=128", "protocol.resume_tokens is 128, it must be absent with the sglang wire"),
        ("protocol.timeout_s=never", "protocol.timeout_s is 'never', it must be a duration with the sglang wire"),
        ("random_faults.failed_writes=0.1", "random_faults is given, which the sglang wire does not allow"),
        ('incidents=[{kind="abort", room=1, time_s=1}]', "incidents is given, which the sglang wire does not allow"),
    ):
        found = refusal("protocol.wire=sglang", setting)
        assert found.startswith(sentence), found
        assert "\n" not in found


def test_a_workload_has_exactly_one_source() -> None:
    with pytest.raises(UserError, match=r"^workload names no source, it must name exactly one of preset, file, "):
        parse({"workload": {}})
    with pytest.raises(UserError, match=r"^workload names file and lengths, it must name exactly one"):
        parse({"workload": {"file": "a.csv", "lengths": [1]}})
    with pytest.raises(UserError, match=r"^workload is missing, it must be given"):
        parse({})


def test_options_of_a_policy_are_checked_by_the_policy() -> None:
    assert refusal("protocol.sizing.policy=quantile", "protocol.sizing.q=2").startswith("protocol.sizing.q is 2")
    found = refusal("protocol.sizing.policy=quantile", "protocol.sizing.q=high")
    assert found == "protocol.sizing.q is 'high', it must be a number"
    found = refusal("protocol.sizing.policy=quantile", "protocol.sizing.windw=3")
    assert found.startswith("protocol.sizing.windw is not known to the policy quantile, which has tokens, q, window")
    assert "did you mean window" in found
    config = parse(changed("protocol.sizing.policy=quantile", "protocol.sizing.q=0.5"))
    assert config.scenario().sizing_options == {"tokens": 1024, "q": 0.5}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_every_policy_and_discipline_makes_ranks(policy: str, discipline: str) -> None:
    # Only the name changes, so a policy without a default ignores `tokens`.
    scenario = parse(changed(f"protocol.sizing.policy={policy}", f"protocol.discipline={discipline}")).scenario()
    for rank_id in scenario.language_ids():
        scenario.make_language_rank(rank_id, None)
    for rank_id in scenario.encode_ids():
        scenario.make_encode_rank(rank_id, None)


def test_units_are_read_and_resolved() -> None:
    config = parse(
        changed(
            "language.pool_blocks=1GiB", "language.poll_interval_s=5ms", "protocol.timeout_s=2min", "model.hidden=64"
        )
    ).resolved()
    assert config.language.pool_blocks == 2**30 // config.layout.bytes_per_block
    assert (config.language.poll_interval_s, config.protocol.timeout_s) == (0.005, 120.0)
    assert parse(changed("protocol.timeout_s=never")).scenario().timeout_s is None


def test_a_profile_gives_the_service_times_and_a_setting_replaces_one() -> None:
    services = parse(changed("encode.profile=h100-qwen2.5-vl-7b", "encode.base_s=1ms")).scenario().services
    assert services.encode_base_s == 0.001
    assert services.encode_per_token_s == pytest.approx(1.4 * 9.67e-6)
    assert services.prefill_per_token_s == 0.0


def test_a_service_profile_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text("prefill_base_s = 0.25\n")
    (tmp_path / "c.toml").write_text("[workload]\nlengths = [1]\n[language]\nprofile = 'mine.toml'\n")
    config = load(str(tmp_path / "c.toml"))
    assert config.scenario().services.prefill_base_s == 0.25
    assert config.input_files() == [(tmp_path / "mine.toml").resolve()]
    (tmp_path / "mine.toml").write_text("prefil_base_s = 0.25\n")
    with pytest.raises(UserError, match="must not hold 'prefil_base_s'"):
        load(str(tmp_path / "c.toml"))


def test_faults_reach_the_scenario() -> None:
    config = parse(changed("faults=[{room=1, epoch=2, destination=0}, {room=3}]"))
    assert config.scenario().faults == (WriteFault(1, 2, 0), WriteFault(3))


@pytest.mark.parametrize("name", example_names())
def test_a_resolved_configuration_resolves_to_itself(name: str, tmp_path: Path) -> None:
    config = load(name)
    text = tomli_w.dumps(config.tree())
    assert parse(tomllib.loads(text)).resolved() == config
    (tmp_path / "again.toml").write_text(text)
    assert load(str(tmp_path / "again.toml")).digest() == config.digest()


def test_the_digest_tells_configurations_and_input_files_apart(tmp_path: Path) -> None:
    one = load("seed-small")
    assert one.digest() == load("seed-small").digest()
    assert one.digest() != load("seed-small", ["run.seed=2"]).digest()
    trace = tmp_path / "t.csv"
    trace.write_text("arrival_s,total_tokens\n0,5\n")
    before = load("seed-small", [f"workload.file={trace}"]).digest()
    trace.write_text("arrival_s,total_tokens\n0,6\n")
    assert load("seed-small", [f"workload.file={trace}"]).digest() != before


def test_every_setting_is_explained_and_its_schema_says_so() -> None:
    schema = Config.model_json_schema()["$defs"]

    def sections(model: type[Section]) -> None:
        explained = model.explained()
        for name, field in model.model_fields.items():
            inner = field.annotation
            if isinstance(inner, type) and issubclass(inner, Section):
                assert inner.__doc__
                sections(inner)
            elif model is not Config:
                assert explained.get(name), f"{model.__name__}.{name} has no docstring"
                assert schema[model.__name__]["properties"][name]["description"] == explained[name]

    sections(Config)
    # A docstring of its own class, one that is inherited, and what a field says of itself.
    assert Encode.explained()["preprocess_workers"].startswith("Processors of an instance that prepare images")
    assert Encode.explained()["instances"] == Language.explained()["instances"] == "Serving replicas."
    assert Incident.explained()["kind"].startswith("Which kind it is: ")


def test_overrides_choose_between_alternatives() -> None:
    tree = changed("workload.text_tokens=3", "workload.preset=mixed", "workload.rate_rps=5")
    assert tree["workload"] == {"preset": "mixed", "rate_rps": 5}
    tree = {"model": {"hidden": 64, "deepstack_layers": 2}}
    apply_override(tree, "model.name=qwen3-vl-8b")
    assert tree["model"] == {"name": "qwen3-vl-8b"}


def test_override_values_are_toml_or_bare_text() -> None:
    tree: dict[str, Any] = {"faults": [{"room": 1}]}
    for setting in ("a.b=1", "a.c=x y", 'a.d="1"', "a.e=[1, 2]", "faults.0.room=7", "a.f="):
        apply_override(tree, setting)
    assert tree == {"a": {"b": 1, "c": "x y", "d": "1", "e": [1, 2], "f": ""}, "faults": [{"room": 7}]}


@pytest.mark.parametrize("setting", ["protocol", "=1", "a..b=1", "a.b.c=1", "faults.1.room=1", "faults.x=1"])
def test_a_wrong_override_is_named(setting: str) -> None:
    tree: dict[str, Any] = {"a": {"b": 1}, "faults": [{"room": 1}]}
    with pytest.raises(UserError, match=r"^--set is "):
        apply_override(tree, setting)


def test_a_real_run_has_limits() -> None:
    with pytest.raises(UserError, match=r"33 ranks together .* at most 32 processes"):
        parse(changed("encode.instances=16", "encode.tp=2")).check_real(2**40)
    with pytest.raises(UserError, match=r"pools of all ranks take .* at most 0.0 GiB"):
        parse(MINIMAL).check_real(10**6)


@pytest.mark.parametrize("value", ["", '""', '" "'])
def test_an_empty_name_of_a_file_is_refused_by_name(value: str) -> None:
    with pytest.raises(UserError, match=r"^workload\.file is empty, it must be a file or folder$"):
        load("quickstart", [f"workload.file={value}"])


def test_two_sources_of_requests_in_one_command_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("arrival_s,total_tokens\n0,5\n1,5\n", encoding="utf-8")
    given = [f"workload.file={file}", "workload.preset=mixed"]
    for settings in (given, given[::-1]):
        with pytest.raises(UserError, match=r"^--set gives workload\.file and preset, it must give only one of"):
            load("quickstart", settings)
