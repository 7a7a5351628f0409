"""What a flow costs, alone and among others. `make bench` times it; as tests these only run."""

from collections.abc import Callable

import pytest

from bufferlab.sim.clock import Clock
from bufferlab.sim.network.adapters import Network
from bufferlab.sim.network.link import load_profile

FLOWS = 2000
BYTES = 2**20


def run(senders: int) -> int:
    """Closed loops, one flow at a time each, all into one receiver: ``FLOWS`` flows in all. Returns how many ended."""
    clock = Clock()
    network = Network(clock, load_profile("cx7-400g"))
    ended = 0

    def again(sender: int, left: int) -> None:
        nonlocal ended
        ended += 1
        if left:
            # Different sizes, so that flows end one by one and each end sets the rates of the others anew.
            network.start(sender, "z", BYTES + 4096 * sender + left, 1, again, sender, left - 1)

    for sender in range(senders):
        network.start(sender, "z", BYTES + 7 * sender, 1, again, sender, FLOWS // senders - 1)
    clock.run_while_busy()
    return ended


@pytest.mark.parametrize("senders", [1, 8])
def test_flows(benchmark: Callable[..., int], senders: int) -> None:
    assert benchmark(run, senders) == FLOWS
