"""How the functions of ``import bufferlab`` look to a type checker: mypy reads this file (``make types``).

``tests/api/test_api.py`` runs ``use`` as well, so that what is typed here is also what happens.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import assert_type

import pandas as pd
from matplotlib.axes import Axes

import bufferlab as bl


def use(folder: Path) -> None:
    """Every function once, with the types that an editor shows."""
    config = bl.load("quickstart", {"workload.requests": 40}, protocol={"sizing": {"tokens": 2048}})
    assert_type(config, bl.Config)
    assert_type(config.protocol.block_tokens, int)
    typed = bl.load(
        "quickstart", workload={"rate_rps": 4, "requests": 40}, encode={"pool_blocks": "4GiB"}, slo={"ttft_s": "2s"}
    )
    assert_type(typed, bl.Config)
    with contextlib.suppress(bl.UserError):  # a mistyped key is an error of the type checker, too
        bl.load("quickstart", workload={"requets": 40})  # type: ignore[typeddict-unknown-key]
    with contextlib.suppress(bl.UserError):
        bl.simulate("quickstart", encode={"pool_blocks": ["4GiB"]})  # type: ignore[typeddict-item]
    options = bl.load("quickstart", protocol={"sizing": {"policy": "quantile", "q": 0.9}, "timeout_s": "never"})
    assert_type(options, bl.Config)
    other = config.with_({"protocol": {"sizing": {"tokens": 512}}})
    assert_type(other, bl.Config)
    run = bl.simulate(config, seed=3, out=folder / "run", plots=False)
    assert_type(run, bl.Run)
    assert_type(run.summary, pd.DataFrame)
    assert_type(run.requests, pd.DataFrame)
    assert_type(run.events, pd.DataFrame)
    assert_type(run.path, Path)
    assert_type(run.plot.ecdf(), Axes)
    assert_type(bl.read(folder / "run", bl.Run), bl.Run)
    sweep = bl.sweep(config, {"protocol.sizing.tokens": [512, 1024]}, replications=2)
    assert_type(sweep, bl.Sweep)
    assert_type(sweep.table, pd.DataFrame)
    assert_type(sweep.plot.u_shape(), Axes)
    tuning = bl.tune(
        config,
        space={
            "protocol.sizing.policy": ["fixed"],
            "protocol.sizing.tokens": [512, 2048],
            "protocol.block_tokens": [64],
        },
        replications=4,
        jobs=1,
    )
    assert_type(tuning, bl.Tuning)
    assert_type(tuning.table, pd.DataFrame)
    assert_type(tuning.recommended, bl.Config)
    validation = bl.validate(run, "tcp-loopback")
    assert_type(validation, bl.Validation)
    assert_type(validation.table, pd.DataFrame)
    assert_type(validation.plot.qq(), Axes)
    paired = bl.paired(run, bl.simulate(other, seed=3))
    assert_type(paired, bl.Paired)
    assert_type(paired.table, pd.DataFrame)
