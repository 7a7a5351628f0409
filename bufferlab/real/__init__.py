"""The real backend: the same protocol cores over Mooncake, ZeroMQ and torch memory.

Importing this package imports none of the three, so that a machine without them can still say what is missing.
"""
