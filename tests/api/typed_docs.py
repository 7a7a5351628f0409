"""The examples of README and docs/api.md, for a type checker; ``tests/api/test_docs_api.py`` holds them to it."""

# ruff: noqa: T201
# fmt: off

from __future__ import annotations

import bufferlab as bl

config = bl.load("quickstart")
run = bl.simulate(config)
sweep = bl.sweep(config)


def example_1() -> None:
    """As it stands there."""
    config = bl.load("quickstart", {"protocol.sizing.tokens": 2048, "workload": {"requests": 300}})
    run = bl.simulate(config, out="runs/from-python")
    print(run, run.summary.loc["latency_s.p99"], run.requests["delivered_s"].max())
    smaller = bl.simulate(config.with_(protocol={"sizing": {"tokens": 512}}))
    print(bl.paired(run, smaller).table.loc["latency_s.mean", ["difference", "low", "high"]])
    sweep = bl.sweep(config, {"protocol.sizing.tokens": [512, 1024, 2048]}, replications=3)
    sweep.plot.u_shape().figure.savefig("runs/u_shape.png")  # type: ignore[union-attr]


def example_2() -> None:
    """As it stands there."""
    config = bl.load("quickstart", workload={"requests": 300}, run={"replications": 5})
    run = bl.simulate(config)
    print(run)
    print(run.summary.loc[["latency_s.p50", "latency_s.p99", "resume.rate"]].round(3))


def example_3() -> None:
    """As it stands there."""
    print(run.requests[["arrival_s", "delivered_s", "total_tokens", "chunks"]].head(3).round(3))


def example_4() -> None:
    """As it stands there."""
    sweep = bl.sweep(config, {"protocol.sizing.tokens": [512, 1024, 2048]})
    print(sweep)
    print(sweep.summary[["protocol.sizing.tokens", "latency_s.p99", "resume.rate"]].round(3))
    print(bl.paired(run, bl.simulate(config, {"protocol.sizing.tokens": 2048})))


def example_5() -> None:
    """As it stands there."""
    try:
        bl.simulate(config, encode={"instances": 0})
    except bl.UserError as error:
        print(error)


def example_6() -> None:
    """As it stands there."""
    bl.load("quickstart", {"protocol.sizing.tokens": 2048, "workload.requests": 300})
    bl.load("quickstart", {"protocol": {"sizing": {"tokens": 2048}}, "workload": {"requests": 300}})
    bl.load("quickstart", protocol={"sizing": {"tokens": 2048}}, workload={"requests": 300})


def example_7() -> None:
    """As it stands there."""
    axes = None
    for tokens in (512, 2048, 8192):
        axes = bl.simulate("ustudy", {"protocol.sizing.tokens": tokens}).plot.tail(ax=axes, label=f"{tokens} tokens")


def example_8() -> None:
    """As it stands there."""
    sweep = bl.sweep(
        "ustudy",
        {"protocol.sizing.tokens": [256, 1024, 4096, 16384], "protocol.discipline": ["window", "alloc_then_free"]},
        workload={"requests": 100},
        replications=3,
    )
    sweep.plot.ecdf(select={"protocol.sizing.tokens": [1024, 4096], "protocol.discipline": "window"}, labels=["1k", "4k"])
    sweep.plot.tail(select=[1, 2])
