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
# # Size it for your traffic
#
# From a log of requests to a number to set, what it is worth, and how sure that is. So that this runs anywhere, the log
# is made here, by a shipped preset; set `TRAFFIC` to the name of your own CSV instead. One row is a request: when it
# came, and how many tokens it has. `docs/workloads.md` says what columns may be called. What this notebook writes is
# below `runs/`.

# %%
REQUESTS = 800
REPLICATIONS = 8
SIZES = [512, 1024, 2048, 4096, 8192]

# %%
from pathlib import Path

import pandas as pd
from IPython.display import Pretty

import bufferlab as bl
from bufferlab.experiments.workloads import describe

# %%
EXAMPLE = Path("runs/example-traffic.csv")
EXAMPLE.parent.mkdir(exist_ok=True)
log = describe.write(describe.configure("single-image-chat", requests=REQUESTS, rate_rps=8.0), EXAMPLE, force=True)

TRAFFIC = EXAMPLE
traffic = pd.read_csv(TRAFFIC)
traffic.head()

# %% [markdown]
# How long embeddings are is what matters most: the share that is longer than a default allocation is the share that
# needs a resume.

# %%
axes = traffic["total_tokens"].plot.hist(bins=60, log=True, figsize=(6.2, 2.8))
labels = axes.set_xlabel("tokens of a request"), axes.set_ylabel("requests")

# %%
traffic["total_tokens"].describe(percentiles=[0.5, 0.9, 0.99]).round()

# %% [markdown]
# ## What to set
#
# Say what the system is: the model, its GPUs, the link between the sides, the memory of the pool. `bl.tune` races
# settings on the same requests and stops when it knows. `space` is what it may choose: here the default allocation
# alone, so that it takes seconds; without it pools, blocks, policies and disciplines are raced too. A file is one
# sample of your traffic: the intervals come from resampling it.

# %%
tuning = bl.tune(
    TRAFFIC,
    model="qwen2.5-vl-7b",
    gpu="h100",
    link="cx7-400g",
    memory="96MiB",
    objective="latency_mean",
    baseline={"protocol.sizing.tokens": 8192},
    space={
        "protocol.sizing.policy": ["fixed"],
        "protocol.sizing.tokens": SIZES,
        "protocol.discipline": ["window"],
        "protocol.block_tokens": [128],
        "language.pool_blocks": ["96MiB"],
        "encode.transfer_workers": [1],
    },
    replications=REPLICATIONS,
)
tuning

# %% [markdown]
# What to set, against what stands there today:

# %%
tuning.recommendation

# %% [markdown]
# Every setting that was raced, with what it costs and how sure that is:

# %%
tuning.table

# %%
axes = tuning.plot.u_shape()

# %% [markdown]
# ## The report
#
# One HTML file with the answer in words, tables, pictures and the commands that repeat it, to send to whoever decides.

# %%
page = tuning.report("runs/sizing.html")
page.name

# %% [markdown]
# The first of the commands that repeat it asks the same on the command line:

# %%
Pretty(tuning.content["commands"][0])

# %% [markdown]
# ## Next
#
# * Limits: `slo={"ttft_p99": "2s"}`. More traffic or less memory: `what_if="rate=2x,pool=0.5x"`. How far off traffic
#   and profiles may be before the answer changes: `sensitivity=True`.
# * `docs/tune.md` explains each sentence of the answer.
# * How far to trust the simulator on your machines: notebook 04.
