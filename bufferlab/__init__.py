"""How many tokens to preallocate for an embedding of unknown length: one protocol core, simulated and measured.

From Python: ``import bufferlab as bl``, then ``bl.load``, ``bl.simulate``, ``bl.sweep`` and what else is named below.
``protocol`` has the rules, ``sim`` runs them on a virtual clock, ``real`` over Mooncake, ``experiments`` is what the
command runs, and ``api`` is what stands here. A name is imported when it is asked for, so importing this costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bufferlab.api.comparisons import Paired as Paired
    from bufferlab.api.comparisons import paired as paired
    from bufferlab.api.configuration import Config as Config
    from bufferlab.api.configuration import load as load
    from bufferlab.api.reading import read as read
    from bufferlab.api.runs import Run as Run
    from bufferlab.api.runs import measure as measure
    from bufferlab.api.runs import simulate as simulate
    from bufferlab.api.sweeps import Sweep as Sweep
    from bufferlab.api.sweeps import sweep as sweep
    from bufferlab.api.tunings import Tuning as Tuning
    from bufferlab.api.tunings import tune as tune
    from bufferlab.api.validations import Validation as Validation
    from bufferlab.api.validations import validate as validate
    from bufferlab.api.whatif import WhatIf as WhatIf
    from bufferlab.api.whatif import what_if as what_if
    from bufferlab.experiments.errors import RunFailedError as RunFailedError
    from bufferlab.experiments.errors import RunFaultedError as RunFaultedError
    from bufferlab.experiments.errors import UserError as UserError
else:
    _MODULES = {
        "Config": "api.configuration",
        "Paired": "api.comparisons",
        "Run": "api.runs",
        "RunFailedError": "experiments.errors",
        "RunFaultedError": "experiments.errors",
        "Sweep": "api.sweeps",
        "Tuning": "api.tunings",
        "UserError": "experiments.errors",
        "Validation": "api.validations",
        "load": "api.configuration",
        "measure": "api.runs",
        "paired": "api.comparisons",
        "read": "api.reading",
        "simulate": "api.runs",
        "sweep": "api.sweeps",
        "tune": "api.tunings",
        "validate": "api.validations",
        "WhatIf": "api.whatif",
        "what_if": "api.whatif",
    }

    def __getattr__(name):
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import importlib

        if "numpy" not in importlib.sys.modules:
            importlib.import_module(f"{__name__}.experiments.starting").load_numpy()
        found = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
        globals()[name] = found
        return found

    def __dir__():
        return sorted({*globals(), *_MODULES})


__all__ = [
    "Config",
    "Paired",
    "Run",
    "RunFailedError",
    "RunFaultedError",
    "Sweep",
    "Tuning",
    "UserError",
    "Validation",
    "WhatIf",
    "load",
    "measure",
    "paired",
    "read",
    "simulate",
    "sweep",
    "tune",
    "validate",
    "what_if",
]
