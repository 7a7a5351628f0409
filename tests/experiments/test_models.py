"""Names as users have them: of models, GPUs and links, of settings without their section, of files that are not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bufferlab.experiments.config.models import MODELS, usual_name
from bufferlab.experiments.tuning.base import Asked, make_base


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_its_own_usual_name(name: str) -> None:
    assert usual_name(name) == name
    assert usual_name(f"Maker/{name.upper()}-Instruct") == name


def test_published_names_of_models() -> None:
    assert usual_name("Qwen/Qwen2.5-VL-7B-Instruct") == "qwen2.5-vl-7b"
    assert usual_name("openbmb/MiniCPM-V-2_6") == "minicpm-v-2.6"
    assert usual_name("Qwen/Qwen2.5-VL-7B-Base") == "Qwen/Qwen2.5-VL-7B-Base"  # nobody said that this is the same


def test_names_are_taken_in_any_case(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text("arrival_s,total_tokens\n0,900\n1,1200\n")
    base = make_base(Asked(str(file), model="Qwen/Qwen2.5-VL-7B-Instruct", gpu="H100", link="CX7-400G", memory="1GiB"))
    assert (base.config.model.name, base.config.encode.profile) == ("qwen2.5-vl-7b", "h100-qwen2.5-vl-7b")
    assert base.config.link.profile == "cx7-400g"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tune", "quickstart", "--space", "tokens=512"], "tokens is not a setting (did you mean protocol.sizing.tokens?)"),
        (["sim", "quickstart", "--set", "pool_blocks=9"], "(did you mean encode.pool_blocks or language.pool_blocks?)"),
        (["tune", "quickstart", "--baseline", "8192"], "'8192', it must look like protocol.sizing.tokens=8192"),
        (["tune", "none.csv"], "TRAFFIC is 'none.csv', it must be a file that can be read; there is no such file"),
        (["workload", "none.csv"], "there is no such file"),
        (["sim", "none.toml"], "there is no such file"),
        (["sim", "quickstart", "--set", "workload.file=none.csv"], "none.csv', it must be a file that can be read; there is"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_told_with_what_may_be_meant(bufferlab: Any, arguments: list[str], sentence: str) -> None:
    done = bufferlab(*arguments)
    assert (done.status, done.out) == (2, "")
    assert sentence in done.err
