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
# # What a resume costs, and when pools deadlock
#
# A request whose embedding is longer than what was set aside is cut: the rest comes in a second chunk, once the
# language side has memory for it. That is a *resume*. It costs a round trip and a wait for blocks; and where rooms
# keep old blocks while they wait for new ones, they can wait for each other for ever.
#
# Everything here is simulated, and takes seconds. `docs/museum.md` lists the faults that this protocol had in its
# time; three of them are below.

# %%
REQUESTS = 400
REPLICATIONS = 5

# %%
from IPython.display import Pretty

import bufferlab as bl
from bufferlab.protocol.checker.bounds import Bound
from bufferlab.protocol.checker.explorer import explore
from bufferlab.protocol.checker.schedule import describe

# %% [markdown]
# ## One resume, looked at
#
# 2,000 tokens for which 1,024 were set aside. The first write fills what was offered; its status lets the language
# side copy the tokens out and offer the blocks again; the second write brings the rest.

# %%
run = bl.simulate("seed-resume")
axes = run.plot.timeline(lanes=["encoder", "offers held", "writer", "copies", "waiting"])

# %% [markdown]
# `run.timeline("resume.json")` writes the same for [Perfetto](https://ui.perfetto.dev), where one can zoom in and
# select slices.
#
# ## What resumes cost, and what they save
#
# The same requests with a default allocation that always fits and with smaller ones. A resumed request takes longer
# to be transferred; but small allocations leave more of the pool to others.

# %%
sweep = bl.sweep(
    "ustudy",
    {"protocol.sizing.tokens": [256, 1024, 4096, 16384]},
    workload={"requests": REQUESTS},
    replications=REPLICATIONS,
)
sweep.summary[["protocol.sizing.tokens", "resume.rate", "resume.mean_chunks", "transfer_s.p50", "latency_s.p99"]]

# %%
axes = sweep.plot.tradeoff()

# %% [markdown]
# ## When pools deadlock
#
# What a room does with its blocks while it waits for more is the *discipline*. Two historic ones can stand still.
# Here are three of the faults of the museum, as small as they come. The checker searches every order of events and
# gives the shortest that breaks a rule of the protocol.
#
# **B1, hold and wait** (`alloc_then_free`): two requests of two blocks in a pool of two. Each holds one block and
# waits for another.

# %%
hold_and_wait = Bound(
    name="two requests of two blocks in a pool of two",
    lengths=(3, 3), discipline="alloc_then_free", encode_blocks=4, language_blocks=2,
)  # fmt: skip
Pretty(describe(explore(hold_and_wait).deadlock, hold_and_wait))

# %% [markdown]
# **B2, a circular wait across the two sides** (`alloc_then_free`): the long request holds encode blocks and waits for
# language blocks; the short one holds those and waits for encode blocks.

# %%
across = Bound(
    name="one request of two blocks, one of one",
    lengths=(3, 1), discipline="alloc_then_free", encode_blocks=2, language_blocks=2,
)  # fmt: skip
explore(across).deadlock.what

# %% [markdown]
# **B2b, although blocks are freed first** (`free_then_alloc`): what the long request still needs is more than the
# short one leaves free.

# %%
freed_first = Bound(
    name="one request of three blocks, one of one",
    lengths=(5, 1), discipline="free_then_alloc", encode_blocks=3, language_blocks=2,
)  # fmt: skip
explore(freed_first).deadlock.what

# %% [markdown]
# With `window` a resume proceeds in the blocks it has. The same three configurations are searched completely, and
# nothing is found:

# %%
window = [
    explore(Bound(name="hold and wait", lengths=(3, 3), encode_blocks=4)),
    explore(Bound(name="across", lengths=(3, 1), encode_blocks=2)),
    explore(Bound(name="freed first", lengths=(5, 1), encode_blocks=3)),
]
[window[0].findings, window[1].findings, window[2].findings]

# %% [markdown]
# ## From the schedule to a timeline
#
# The same requests and pools in the simulator, with blocks of 128 tokens. Rooms wait until their timers end them
# (here after 40 ms; minutes in service), and those that were waited for go on then.

# %%
small = bl.load(
    "seed-resume",
    {"protocol.sizing.tokens": 128, "protocol.timeout_s": 0.04, "language.pool_blocks": 2, "workload.requests": 2},
)
b1 = bl.simulate(
    small.with_({"protocol.discipline": "alloc_then_free", "workload.lengths": [256, 256], "encode.pool_blocks": 4})
)
axes = b1.plot.timeline()

# %%
b2 = bl.simulate(
    small.with_({"protocol.discipline": "alloc_then_free", "workload.lengths": [256, 128], "encode.pool_blocks": 2})
)
axes = b2.plot.timeline()

# %%
b2b = bl.simulate(
    small.with_({"protocol.discipline": "free_then_alloc", "workload.lengths": [384, 128], "encode.pool_blocks": 3})
)
axes = b2b.plot.timeline()

# %% [markdown]
# And the last one with `window`, in milliseconds instead:

# %%
cured = bl.simulate(
    small.with_({"protocol.discipline": "window", "workload.lengths": [384, 128], "encode.pool_blocks": 3})
)
axes = cured.plot.timeline()

# %% [markdown]
# The simulator sees a deadlock when it happens, and names its rooms:

# %%
[b1.content["deadlock"], b2.content["deadlock"], b2b.content["deadlock"], cured.content["deadlock"]]

# %%
b1.requests[["room", "total_tokens", "status", "failure"]]

# %% [markdown]
# ## Next
#
# * `docs/disciplines.md`: all disciplines on the same requests, against the size of the pool.
# * `bufferlab check --discipline alloc_then_free` searches larger configurations; `python tools/museum.py --show B1`
#   has the schedules of all faults.
# * Notebook 05 has a discipline of its own, and checks it.
