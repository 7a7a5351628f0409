"""``bl.what_if`` answers as a run of the same settings does, with widgets and without; timelines have pictures."""

from __future__ import annotations

import base64
import sys
from typing import Any

import pytest

import bufferlab as bl
from bufferlab.api.whatif import WIDGETS

REQUESTS = 40


@pytest.fixture(scope="module")
def what_if() -> bl.WhatIf:
    return bl.what_if("quickstart", requests=REQUESTS)


def test_an_answer_is_that_of_a_run_with_these_settings(what_if: bl.WhatIf) -> None:
    config = bl.load("quickstart", workload={"requests": REQUESTS}, run={"replications": 1})
    assert what_if.run().content["latency_s"] == bl.simulate(config).content["latency_s"]
    asked = what_if.run(rate=1.5, tokens=2048, pool=0.25, bandwidth=0.5)
    expected = {
        "workload.rate_rps": config.workload.rate_rps * 1.5,
        "protocol.sizing.tokens": 2048,
        "language.pool_blocks": config.blocks(config.language) // 4,
        "link.bandwidth_scale": 0.5,
    }
    assert asked.content["latency_s"] == bl.simulate(config, expected).content["latency_s"]
    assert asked.content["latency_s"] != what_if.run().content["latency_s"]
    assert what_if.run(rate=1.5, tokens=2048, pool=0.25, bandwidth=0.5) is asked


def test_what_is_no_slider_or_no_configuration_is_refused(what_if: bl.WhatIf) -> None:
    with pytest.raises(bl.UserError, match="rates is no slider, there are rate, tokens, pool, bandwidth"):
        what_if.run(rates=2)
    with pytest.raises(bl.UserError, match="pool_blocks"):
        what_if.run(pool=0.25, tokens=16384)


def test_sliders_draw_anew_and_a_page_without_them_has_the_picture(what_if: bl.WhatIf) -> None:
    pytest.importorskip("ipywidgets")
    bundle, _ = what_if._repr_mimebundle_()
    *rows, words, picture = what_if.widgets.children
    assert [len(row.children) for row in rows] == [2, 2]
    assert bundle[WIDGETS]["model_id"] == what_if.widgets.model_id
    assert base64.b64decode(bundle["image/png"]) == picture.value == what_if._png()
    by_name = {one.description: one for row in rows for one in row.children}
    assert by_name.keys() == what_if.start.keys()
    by_name["rate"].value = 2.0
    assert picture.value == what_if._png(rate=2.0)
    # What no configuration can have is said, and the picture stays until there is an answer again.
    by_name["tokens"].value, by_name["pool"].value = 16384, 0.25
    assert "pool_blocks" in words.value
    by_name["pool"].value = 1.0
    assert words.value == ""
    assert picture.value == what_if._png(rate=2.0, tokens=16384)


def test_without_widgets_there_is_the_picture_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    made = bl.what_if("quickstart", requests=REQUESTS)
    bundle, _ = made._repr_mimebundle_()
    assert made.widgets is None
    assert bundle.keys() == {"text/plain", "image/png"}


def bars(axes: Any) -> int:
    return len(axes.patches)


def test_a_short_run_has_a_picture_of_its_timeline() -> None:
    run = bl.simulate("seed-resume")
    axes = run.plot.timeline()
    shown = [one.get_text() for one in axes.get_yticklabels()]
    assert shown[0] == "all requests  requests"
    assert {"encode0  rank 0 writer", "language0  rank 0 copies"} <= set(shown)
    # An arrow for each acknowledgement; the offers are on a lane that is not shown.
    assert len([one for one in axes.texts if one.get_text() == ""]) == 2
    offers = run.plot.timeline(lanes=["offers held", "writer", "waiting"])
    assert len([one for one in offers.texts if one.get_text() == ""]) == 2 + 2 + 1
    for one in offers.texts:
        if one.get_text() == "":
            assert one.xyann[0] <= one.xy[0], "an arrow leads forward in time"
    assert bars(run.plot.timeline(lanes=["writer"], arrows=False)) == 2


def test_a_timeline_that_cannot_be_read_is_refused() -> None:
    run = bl.simulate("quickstart", workload={"requests": 200, "rate_rps": 200})
    with pytest.raises(ValueError, match="tracks, a picture shows 60"):
        run.plot.timeline()
