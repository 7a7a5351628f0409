"""The simulator: the same protocol cores on SimPy's virtual clock, with modelled links, pools and service times."""

from bufferlab import protocol  # noqa: F401 - with it Python finds compiled modules, ours as well
