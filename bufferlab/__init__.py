"""How many tokens to preallocate for an embedding of unknown length: one protocol core, simulated and measured.

``protocol`` has the rules, ``sim`` runs them on a virtual clock, ``real`` over Mooncake, and ``experiments`` is what
users run.
"""
