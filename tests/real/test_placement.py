"""Where block memory goes; what only a GPU can show is skipped without one."""

from __future__ import annotations

import pytest
import torch

from bufferlab.protocol.layout import BufferLayout
from bufferlab.real.engine.content import first_difference, room_content
from bufferlab.real.engine.memory import Pool
from bufferlab.real.engine.placement import Devices, Placement, place
from bufferlab.real.engine.registry import engine_class
from bufferlab.real.errors import EngineError

NOTHING = Devices(gpus=0, engine_takes_gpus=False)
ENGINE_ONLY = Devices(gpus=0, engine_takes_gpus=True)
TORCH_ONLY = Devices(gpus=2, engine_takes_gpus=False, why_not=engine_class("tcp").no_gpu_memory)
BOTH = Devices(gpus=2, engine_takes_gpus=True)

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")


@pytest.mark.parametrize(
    ("choice", "devices", "expected"),
    [
        ("auto", NOTHING, Placement("cpu")),
        ("auto", ENGINE_ONLY, Placement("cpu")),
        ("auto", TORCH_ONLY, Placement("cpu", pinned=True)),
        ("auto", BOTH, Placement("cuda:1")),
        ("host", NOTHING, Placement("cpu")),
        ("host", BOTH, Placement("cpu", pinned=True)),
        ("gpu", BOTH, Placement("cuda:1")),
    ],
)
def test_a_gpu_is_used_where_torch_and_the_engine_can(choice: str, devices: Devices, expected: Placement) -> None:
    assert place(choice, 3, devices) == expected  # type: ignore[arg-type]


def test_ranks_take_the_gpus_in_turn() -> None:
    assert [place("auto", number, BOTH).device for number in range(4)] == ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]


@pytest.mark.parametrize(
    ("devices", "why"), [(NOTHING, "torch sees no GPU"), (TORCH_ONLY, r"wheel cannot use GPU memory; run: .* -m pip ")]
)
def test_asking_for_a_gpu_that_cannot_be_used_is_an_error(devices: Devices, why: str) -> None:
    with pytest.raises(EngineError, match=f"real.memory is 'gpu', but .*{why}"):
        place("gpu", 0, devices)


def test_how_it_is_called() -> None:
    assert [str(Placement()), str(Placement(pinned=True)), str(Placement("cuda:0"))] == [
        "host",
        "host, pinned",
        "cuda:0",
    ]


@needs_gpu
@pytest.mark.parametrize("place_of_pool", [Placement("cuda:0"), Placement(pinned=True)])
def test_content_survives_a_pool_there(place_of_pool: Placement) -> None:
    layout = BufferLayout(16, 64, deepstack_layers=1)
    pool = Pool(layout, 8, place_of_pool.device, pinned=place_of_pool.pinned)
    content = room_content(7, 0, 100, layout)
    pool.fill([5, 1, 2, 3, 0, 7, 6], content)
    assert first_difference(content, pool.gather([5, 1, 2, 3, 0, 7, 6], 100)) is None
    if place_of_pool.pinned:
        assert all(memory.is_pinned() for memory in pool.memory)
