"""The simulator: the same protocol cores on SimPy's virtual clock, with modelled links, pools and service times."""
