# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#       jupytext_version: 1.19.6
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
import bufferlab as bl

# %% [markdown]
# A configuration is a shipped example (`bufferlab examples` lists them) or a file of your own, and what you want
# otherwise. It is checked as a whole before anything runs.

# %%
config = bl.load("ustudy", {"workload.requests": 300}, run={"replications": 5})
config

# %% [markdown]
# One run of it. Latency is the time from a request's arrival to its embedding being delivered. Replications repeat the
# configuration with other draws: that is where the intervals come from.

# %%
run = bl.simulate(config)
run

# %%
run.summary.loc[["latency_s.mean", "latency_s.p99", "resume.rate"]]

# %%
run.plot.ecdf()
# %% [markdown]
# Now five default allocations. All of them see the same requests.

# %%
sweep = bl.sweep(config, {"protocol.sizing.tokens": [128, 512, 2048, 8192, 16384]})
sweep

# %% [markdown]
# Bands are 95 % intervals across replications. The star is the lowest mean; the filled points are the sizes that may be
# the lowest in truth, judged by differences replication by replication, which common requests make much sharper than
# the bands look.

# %%
sweep.plot.u_shape(figure="latency_s.mean")
# %% [markdown]
# What is traded for what: resumed requests against memory that is held and left empty.

# %%
sweep.plot.tradeoff()
# %% [markdown]
# The mean hides who pays. This is the share of the requests that take longer than a time.

# %%
sweep.plot.tail()

# %% [markdown]
# ## Next
#
# * Another workload: `bl.load("ustudy", workload={"preset": …, "rate_rps": …})`; `bufferlab examples --show ustudy`
#   explains the fields.
# * A policy that learns: `bl.sweep(config, {"protocol.sizing.policy": ["fixed", "quantile", "oracle"]})`.
# * Keep it: `bl.sweep(…, out="runs/mine")` writes a directory that goes on where it was interrupted, and
#   `bl.read("runs/mine")` reads it back. On the command line this is `bufferlab sweep`; see `docs/sweeps.md`.
