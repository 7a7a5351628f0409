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
# # What if: sliders over a configuration
#
# How many requests come, how much is set aside, how large the pool is, how fast the link: each slider changes one of
# them, and a short simulated run of the same requests answers in less than a second. The grey curves are the
# configuration as it is. Where a page has no widgets you see the picture alone, and the cells below ask the same
# questions without sliders.

# %%
REQUESTS = 300

# %%
import bufferlab as bl

what_if = bl.what_if("quickstart", requests=REQUESTS)
what_if

# %% [markdown]
# One run of a few hundred requests has an answer and no interval. Before you act on one, ask with replications:
# notebook 01 for a sweep, notebook 02 for a recommendation.
#
# ## Without sliders
#
# Half as many requests again:

# %%
what_if.figure(rate=1.5)

# %% [markdown]
# The same with a quarter of the pool, and with a default allocation that mostly fits:

# %%
what_if.figure(rate=1.5, pool=0.25)

# %%
what_if.figure(rate=1.5, pool=0.25, tokens=8192)

# %% [markdown]
# What differs request by request:

# %%
bl.paired(what_if.run(rate=1.5, pool=0.25), what_if.run(rate=1.5, pool=0.25, tokens=8192))

# %% [markdown]
# ## Next
#
# * Your own configuration: `bl.what_if("mine.toml")`, or `bl.what_if(bl.load("quickstart", workload={"preset": …}))`.
# * `what_if.choices` are the values of the sliders; change them before the sliders are shown.
