from pathlib import Path

import pytest

from experiments.errors import UserError
from experiments.runs import environment


def test_a_compiled_copy_of_other_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "compiled_copy", lambda: tmp_path)
    mark = tmp_path / environment.COMPILED_MARK
    mark.write_text("0123", encoding="utf-8")
    with pytest.raises(UserError, match="a compiled copy of other sources than these"):
        environment.check_compiled()
    mark.write_text(environment.sources_digest(Path(__file__).resolve().parents[2]), encoding="utf-8")
    environment.check_compiled()
