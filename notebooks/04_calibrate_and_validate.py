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
# # Calibrate and validate against a measured run
#
# How far is the simulator off on this machine? Measure runs, fit a link profile to some of them, predict others with
# it, and compare. The processes are real, and so are the bytes, over plain sockets between processes of this machine;
# `"tcp"` in their place has Mooncake move them, where it is installed.
#
# This needs more than to simulate: `make notebooks` installs it, and in the folder of the sources
#
# ```
# .venv/bin/pip install '.[notebooks,real-socket]'
# ```
#
# does. Where something is missing the first call says in one sentence what. It takes half a minute, and what comes out
# is about the machine that ran it, and about what else that did meanwhile: the prediction is for one that is idle.

# %%
REQUESTS = 160
TRANSPORT = "socket"

# %%
from pathlib import Path

import bufferlab as bl
from bufferlab.experiments.calibration.command import calibrate
from bufferlab.experiments.calibration.profiles import NoProfileError

# %% [markdown]
# ## Measure
#
# One request at a time, of many sizes: its writes tell what the link does. Then requests that overlap. `force`
# replaces the runs of an earlier time.

# %%
lengths = [150, 300, 500, 800, 1000, 1500, 2200, 3500]
alone = bl.measure(
    "validation-case",
    {"workload.lengths": lengths, "workload.requests": REQUESTS, "workload.rate_rps": None, "run.name": "alone"},
    workload={"loop": "closed", "concurrency": 1},
    transport=TRANSPORT,
    out="runs/alone",
    force=True,
)
alone

# %%
busy = bl.measure(
    "validation-case",
    {"workload.rate_rps": 40.0, "workload.requests": 2 * REQUESTS, "run.name": "busy"},
    transport=TRANSPORT,
    out="runs/busy",
    force=True,
)
busy

# %% [markdown]
# ## Calibrate
#
# A profile from the first run alone: a law for the time of a write, copies, control messages, with uncertainties.
#
# If something else kept the machine busy meanwhile, writes of one size took any time, and no law says how long one
# takes. Then there is no profile: the cell says so, and this notebook goes on with the one that is shipped, which was
# fitted on another machine. Run it again when the machine is idle, or have `bufferlab calibrate --here` measure longer.

# %%
HERE = Path("runs/here.toml")
HERE.unlink(missing_ok=True)  # of an earlier time
try:
    fitted = calibrate([alone.path], out=HERE)
    PROFILE = HERE
    said = f"{HERE}: {fitted['joint']['formula']}, off by {fitted['joint']['mean_error']:.0%} on average"
except NoProfileError as refused:
    PROFILE = "tcp-loopback"
    said = f"the shipped profile {PROFILE}, since {refused}"
said

# %% [markdown]
# ## Validate
#
# Predict both with that profile, which has not seen the second. The requests come in the simulation at the very times
# at which they came in the measured run. A prediction is off if it misses by more than the run's own noise and the
# tolerance.

# %%
validation = bl.validate(["runs/alone", "runs/busy"], PROFILE)
validation

# %%
validation.table[["p50_measured_s", "p50_predicted_s", "p50_bias", "p99_measured_s", "p99_predicted_s", "p99_bias"]]

# %% [markdown]
# The run that the profile comes from is met well. Of the other one the prediction is too quick where few processors
# serve many processes: requests that overlap keep each other's threads waiting, and requests that came alone could not
# tell how long. `bufferlab calibrate --here` measures that too. Its quantiles:

# %%
axes = validation.plot.qq(case=0)

# %% [markdown]
# With the shipped profile, which was fitted on another machine, the same looks like this:

# %%
bl.validate(["runs/alone", "runs/busy"], "tcp-loopback")

# %% [markdown]
# ## One request, looked at
#
# The same request in both worlds. `bufferlab compare RUN RUN --timeline both.json` puts whole runs on one time axis for
# Perfetto.

# %%
one = bl.load("seed-resume", {"link.profile": PROFILE})
axes = bl.simulate(one).plot.timeline()

# %%
axes = bl.measure(one, transport=TRANSPORT).plot.timeline()

# %% [markdown]
# ## Next
#
# * `bufferlab calibrate --here --out my.toml` measures this host more thoroughly, in half a minute.
# * `docs/validation.md` explains the figures, `docs/campaign.md` shows how far off the simulator is, case by case.
# * A few processors for many processes make waits that are not the link's; `docs/links.md` says how a profile has them.
