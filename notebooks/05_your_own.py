# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A sizing policy, a discipline and a process of your own
#
# Three things that are made to be replaced: how much memory is set aside for a request (a *sizing policy*), what a
# room does with its blocks while it waits for more (a *discipline*), and what happens beside the ranks (a *SimPy
# process* on the same virtual clock).

# %%
REQUESTS = 300
REPLICATIONS = 5

# %%
from pathlib import Path

import pandas as pd

import bufferlab as bl

# %% [markdown]
# ## A sizing policy
#
# A policy sees what the language side sees of a request: its text, its number of images, the free blocks; not its
# length. It stands in a file, so that every rank and every worker has the same. Its options are checked against the
# constructor.

# %%
POLICY = '''
from bufferlab.protocol.sizing import RequestView, SizingPolicy


class PerImage(SizingPolicy):
    """So many tokens for each image, and something for requests that say nothing of theirs."""

    def __init__(self, each: int = 1536, unknown: int = 128) -> None:
        self.each = each
        self.unknown = unknown

    def first_tokens(self, view: RequestView) -> int:
        return max(view.request.images * self.each, 128) if view.request.images else self.unknown
'''
FILE = Path("runs/my_policies.py")
FILE.parent.mkdir(exist_ok=True)
size = FILE.write_text(POLICY)

# %% [markdown]
# It is named by its place, here beside two shipped policies on the same requests. The oracle is told the length,
# which no real policy is.

# %%
sweep = bl.sweep(
    "quickstart",
    configurations=[
        {"protocol.sizing.policy": "fixed"},
        {"protocol.sizing.policy": f"{FILE}:PerImage"},
        {"protocol.sizing.policy": "oracle"},
    ],
    workload={"requests": REQUESTS, "preset": "servegen-like", "rate_rps": 6},
    replications=REPLICATIONS,
)
table = sweep.summary[["latency_s.mean", "latency_s.p99", "resume.rate", "language_pool.wasted_fraction"]]
table.set_axis(["fixed", "PerImage", "oracle"])

# %% [markdown]
# Ours resumes far less than a fixed default of 1,024, and leaves more of what it holds empty. Whether that is worth
# it, the differences from the first one on the same requests tell, whose intervals are much narrower than those of
# either: `variance_reduction` says by what factor less they vary.

# %%
figures = ["latency_s.mean", "latency_s.p99", "resume.rate"]
sweep.differences.loc[([2, 3], figures), ["difference", "low", "high", "significant", "variance_reduction"]]

# %% [markdown]
# So ours saves more than half of the resumes, and that is all that can be told: the interval of the mean latency has 0
# in it. More replications would make it narrower.

# %%
axes = sweep.plot.tail(labels=["fixed", "PerImage", "oracle"])

# %% [markdown]
# ## A discipline
#
# A discipline answers in numbers of blocks. This one takes whatever is free for its next chunk, and keeps what it has
# until then. It claims that it cannot deadlock.

# %%
from bufferlab.protocol.checker.bounds import Bound
from bufferlab.protocol.checker.explorer import explore
from bufferlab.protocol.disciplines import DISCIPLINES, Discipline, ResumeGrant


class Greedy(Discipline):
    """Grow into what is free, and never wait for more than one block beyond what is held."""

    name = "greedy"

    def resume(self, held: int, remaining: int, free: int) -> ResumeGrant | None:
        """Keep what is held and take what is free, but wait until there is any."""
        wanted = min(remaining, held + free)
        return ResumeGrant(held, wanted - held) if free else None


DISCIPLINES[Greedy.name] = Greedy

# %% [markdown]
# The checker tries every order of events of two requests in a pool of two blocks, and finds out the claim: two rooms
# that hold one block each wait for a third.

# %%
found = explore(Bound(name="two in two", lengths=(3, 3), discipline="greedy", encode_blocks=4))
found.deadlock.what

# %% [markdown]
# A room that has blocks can always go on in those. That is what `window` does, and what ours does with another
# `resume`, which never says "wait":


# %%
class Patient(Greedy):
    """The same, but a room goes on in what it has when nothing is free."""

    name = "patient"

    def resume(self, held: int, remaining: int, free: int) -> ResumeGrant | None:
        """Keep as much as is needed, and take what is free."""
        kept = min(held, remaining)
        return ResumeGrant(kept, min(remaining - kept, free))


DISCIPLINES[Patient.name] = Patient
checked = explore(Bound(name="two in two", lengths=(3, 3), discipline="patient", encode_blocks=4))
checked.complete, checked.states, checked.findings

# %% [markdown]
# To use a discipline from the command line and in worker processes, put its class into a file of
# `bufferlab/protocol/disciplines/`; it is found there, and the tests of all disciplines include it.
#
# ## A process on the same clock
#
# Whatever is written for [SimPy](https://simpy.readthedocs.io) runs in one order of time with the ranks. Here are a
# client that thinks between two requests, an operator who restarts the language instance, and a sampler of the pool.

# %%
from bufferlab.protocol.emulation.requests import Request
from bufferlab.protocol.emulation.scenario import Scenario
from bufferlab.protocol.topology import Side
from bufferlab.sim.network.link import load_profile
from bufferlab.sim.run import simulate

log, samples = [], []


def client(environment, cluster):
    """Sends a request, waits until it is over, thinks, sends the next."""
    for room in range(1, 31):
        over = environment.event()
        began_s = environment.now
        cluster.submit(Request(room, 0.0, 2000), over.succeed)
        served = yield over
        log.append({"room": room, "began_s": began_s, "took_s": environment.now - began_s, "served": served})
        yield environment.timeout(0.02)


def operator(environment, cluster):
    """Restarts the language instance."""
    yield environment.timeout(0.5)
    cluster.end_processes(Side.LANGUAGE, 0)
    yield environment.timeout(0.1)
    cluster.start_processes(Side.LANGUAGE, 0)


def sampler(environment, cluster):
    """Looks at the language pool every 5 ms; it keeps no run alive."""
    while True:
        (rank,) = [core for core in cluster.cores if core.rank_id.side is Side.LANGUAGE]
        samples.append({"time_s": environment.now, "free_blocks": len(list(rank.pool.free_blocks()))})
        yield environment.timeout(0.005)


def begin(environment, cluster):
    """Starts all three; the run waits for the client."""
    environment.process(operator(environment, cluster))
    environment.process(sampler(environment, cluster))
    return [environment.process(client(environment, cluster))]


scenario = Scenario(block_tokens=128, hidden=2048, sizing_options={"tokens": 1024})
outcome = simulate(scenario, [], load_profile("tcp-loopback"), processes=begin)
outcome.succeeded, outcome.failed, outcome.deadlock

# %% [markdown]
# Those that failed came while the instance was down. They were refused at once, so they took no time at all; the client
# thought for 20 ms and sent the next one.

# %%
requests = pd.DataFrame(log)
requests.groupby("served")["took_s"].describe()[["count", "mean", "min", "max"]]

# %%
axes = pd.DataFrame(samples).plot(x="time_s", y="free_blocks", drawstyle="steps-post", figsize=(6.2, 2.6), legend=False)
label = axes.set_xlabel("seconds"), axes.set_ylabel("free blocks")
shade = axes.axvspan(0.5, 0.6, color="#dddddd", label="restart")

# %% [markdown]
# ## Next
#
# * `docs/policies.md`: the shipped policies, what a policy may see, and how its answers are checked.
# * `docs/disciplines.md` and `docs/checking.md`: what a discipline claims, and how the checker searches.
# * `docs/model.md`: what a process may do to the cluster.
