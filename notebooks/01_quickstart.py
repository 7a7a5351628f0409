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
# # The U-shape in five settings
#
# The language side of a disaggregated multimodal server sets memory aside for an embedding before it knows how long the
# embedding is. Too little, and the transfer is cut and must be resumed; too much, and the pool fills with blocks nobody
# needs, and requests queue for it. Somewhere between lies the default allocation that costs least.
#
# Everything below is simulated, with the same protocol code that runs over Mooncake. It takes a few seconds.

# %%
from bufferlab.experiments.figures.sweeps import plot_ecdf, plot_tradeoff, plot_u_shape
from bufferlab.experiments.sweeps.plan import make_plan
from bufferlab.experiments.sweeps.sweep import run_sweep

# %% [markdown]
# A plan is a shipped example (`bufferlab examples` lists them) or a file of your own, and values for the fields that
# are to vary. Every configuration of the grid is checked as a whole before anything runs. Replications
# repeat a configuration with other draws: that is where the intervals come from. All configurations see the same
# requests.

# %%
plan = make_plan(
    "ustudy",
    grid={"protocol.sizing.tokens": [128, 512, 2048, 8192, 16384]},
    settings=["workload.requests=300"],
    replications=5,
)
sweep = run_sweep(plan)
sweep.table[["protocol.sizing.tokens", "replication", "latency_s.mean", "latency_s.p99", "resume.rate"]]

# %% [markdown]
# Latency is the time from a request's arrival to its embedding being delivered. Bands are 95 % intervals across
# replications. The star is the lowest mean; the filled points are the sizes that may be the lowest in truth, judged by
# differences replication by replication, which common requests make much sharper than the bands look.

# %%
plot_u_shape(sweep.table)

# %% [markdown]
# What is traded for what: resumed requests against memory that is held and left empty.

# %%
plot_tradeoff(sweep.table)

# %% [markdown]
# The mean hides who pays. The left panel has the share of requests delivered within a time, the right one the tail.

# %%
plot_ecdf(sweep.quantiles)

# %% [markdown]
# ## Next
#
# * Another workload: `settings=["workload.preset=…", "workload.rate_rps=…"]`; `bufferlab examples --show ustudy`
#   explains the fields.
# * A policy that learns: `grid={"protocol.sizing.policy": ["fixed", "quantile", "oracle"]}`.
# * Keep it: `run_sweep(plan, Path("runs/mine"))` writes a directory that goes on where it was interrupted, and
#   `read_sweep("runs/mine")` reads it back. On the command line this is `bufferlab sweep`; see `docs/sweeps.md`.
