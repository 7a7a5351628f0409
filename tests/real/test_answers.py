"""Ranks of a measured group agree, and compare the answers of a sizing policy, over their own all-reduces."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")

pytestmark = [pytest.mark.real, pytest.mark.slow]

RANK = """
import sys
from bufferlab.protocol.messages import LanguageRequest
from bufferlab.protocol.sizing import RequestView, SizingError, SizingPolicy, Supervised
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.collective import Collective

rank, size, port = map(int, sys.argv[1:])

class Differs(SizingPolicy):
    def first_tokens(self, view):
        return 100 + (rank if view.request.room == 3 else 0)

policy = Supervised(Differs(), "mine.py:Differs")
policy.compared = True
group = Collective(rank, size, "127.0.0.1", 30.0)
if rank == 0:
    print(group.port, flush=True)
group.join("127.0.0.1", port or group.port)
for room in (1, 2, None, 3):
    if room is not None:
        policy.first_tokens(RequestView(LanguageRequest(room, 0), 16, 8, 8))
    try:
        group.must_answer_alike(RankId(Side.LANGUAGE, 0, rank), policy)
        print("alike", flush=True)
    except SizingError as error:
        print(error, flush=True)
group.leave()
"""


def said_by(program: str, size: int) -> list[list[str]]:
    """The lines that each rank of a group printed that ran ``program``."""
    root = Path(__file__).resolve().parents[2]

    def start(rank: int, port: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", program, str(rank), str(size), str(port)]
        return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)

    first = start(0, 0)
    assert first.stdout is not None
    port = int(first.stdout.readline())
    others = [start(rank, port) for rank in range(1, size)]
    return [process.communicate(timeout=60)[0].splitlines() for process in (first, *others)]


ITERATIONS = """
import sys
from bufferlab.protocol.agreement import hold_iteration
from bufferlab.protocol.disciplines import make_discipline
from bufferlab.protocol.language import LanguageRank
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.messages import Abort, LanguageRequest
from bufferlab.protocol.sizing import Fixed
from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.control.collective import Collective

rank, size, port = map(int, sys.argv[1:])

def cores():
    made = [
        LanguageRank(RankId(Side.LANGUAGE, 0, one), layout=BufferLayout(4, 1), discipline=make_discipline("window"),
                     sizing=Fixed(4), pool_blocks=8)
        for one in range(size)
    ]
    for one in made:
        for room in range(150):
            one.handle(LanguageRequest(room, 0), 0.0)
            if room % size == one.rank_id.rank or room < 100:
                one.handle(Abort(room, 0), 0.0)
    return made

simulated, own = cores(), cores()[rank]
group = Collective(rank, size, "127.0.0.1", 30.0)
if rank == 0:
    print(group.port, flush=True)
group.join("127.0.0.1", port or group.port)
for _ in range(30):
    expected = hold_iteration(simulated)
    for one in simulated:
        one.handle(expected, 0.0)
    iteration, _ = group.hold_iteration(own, leaving=False)
    own.handle(iteration, 0.0)
    print(iteration == expected, len(iteration.progress), flush=True)
group.leave()
"""


def test_a_measured_group_decides_about_as_many_rooms_in_an_iteration_as_a_simulated_one() -> None:
    for lines in said_by(ITERATIONS, 2):
        assert {line.split()[0] for line in lines} == {"True"}
        assert [int(line.split()[1]) for line in lines][:3] == [64, 61, 0]


def test_every_rank_says_which_answers_differ() -> None:
    for lines in said_by(RANK, 3):
        assert lines[:3] == ["alike"] * 3
        assert "mine.py:Differs answered differently on the ranks of one group for room 3, " in lines[3]
        assert "100 on language0.0, 101 on language0.1, 102 on language0.2" in lines[3]
