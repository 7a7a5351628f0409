"""Sweeps: many runs of different configurations, whose results are kept, so that a sweep can go on after a stop."""
