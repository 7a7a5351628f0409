"""Exhaustive exploration of the protocol: every order of events within a bound, and faults at every step.

The cores are functions of state and input, so everything they can do within a bound can be enumerated. Read in this
order: ``bounds`` (what is explored), ``states`` (the form of a state and of a move), ``model`` (which moves are
possible), ``localsteps`` (what a rank does in one), ``effects`` (where it leads), ``invariants`` (what must hold),
``verdicts`` (what is wrong with a state), ``explorer`` (the search and its findings), ``schedule`` (findings as text
and as files), ``suites`` (the bounds that are searched by ``bufferlab check``). ``snapshot`` copies cores and gives
them keys.
"""
