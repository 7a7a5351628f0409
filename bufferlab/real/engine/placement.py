"""Where a rank's block memory lies: on a GPU when there is one that the engine can use, else in host memory."""

from __future__ import annotations

from typing import Literal

import msgspec

from bufferlab.real.engine.registry import engine_class
from bufferlab.real.errors import EngineError

MemoryChoice = Literal["auto", "host", "gpu"]


class Devices(msgspec.Struct, frozen=True):
    """What there is. ``gpus``: how many torch sees; ``engine_takes_gpus``: whether the engine can write their
    memory; ``why_not``: if it cannot, why."""

    gpus: int
    engine_takes_gpus: bool
    why_not: str = ""


class Placement(msgspec.Struct, frozen=True):
    """Where a pool lies. ``device``: as torch calls it. ``pinned``: whether host memory is page-locked for a GPU."""

    device: str = "cpu"
    pinned: bool = False

    def __str__(self) -> str:
        if self.device != "cpu":
            return self.device
        return "host, pinned" if self.pinned else "host"


def find_devices(transport: str) -> Devices:
    """What there is for the engine of a transport. Raises EngineMissing when that cannot be imported."""
    import torch  # by a rank alone: whoever starts ranks names a choice of memory and does not wait for torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    engine = engine_class(transport)
    return Devices(gpus, engine.takes_gpu_memory(), engine.no_gpu_memory)


def place(choice: MemoryChoice, number: int, devices: Devices) -> Placement:
    """Where the ``number``-th rank's memory goes; ranks take the GPUs in turn.

    "auto" takes a GPU where torch and the engine can both use one. Host memory is pinned where torch sees a GPU, so
    that copies between them need no detour. Raises EngineError for "gpu" where there is none to be used.
    """
    usable = devices.gpus > 0 and devices.engine_takes_gpus
    if choice == "gpu" and not usable:
        lacking = "torch sees no GPU" if devices.gpus == 0 else devices.why_not
        raise EngineError(f"real.memory is 'gpu', but {lacking}")
    if choice != "host" and usable:
        return Placement(f"cuda:{number % devices.gpus}")
    return Placement(pinned=devices.gpus > 0)
