"""Ranks of a measured group compare the answers of a sizing policy from outside over their own all-reduce."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="needs torch")

pytestmark = [pytest.mark.real, pytest.mark.slow]

RANK = """
import sys
from protocol.messages import LanguageRequest
from protocol.sizing import RequestView, SizingError, SizingPolicy, Supervised
from protocol.topology import RankId, Side
from real.collective import Collective

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


def test_every_rank_says_which_answers_differ() -> None:
    root = Path(__file__).resolve().parents[2]

    def start(rank: int, port: int) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", RANK, str(rank), "3", str(port)]
        return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True)

    first = start(0, 0)
    assert first.stdout is not None
    port = int(first.stdout.readline())
    said = [
        process.communicate(timeout=60)[0].splitlines() for process in (first, *[start(rank, port) for rank in (1, 2)])
    ]
    for lines in said:
        assert lines[:3] == ["alike"] * 3
        assert "mine.py:Differs answered differently on the ranks of one group for room 3, " in lines[3]
        assert "100 on language0.0, 101 on language0.1, 102 on language0.2" in lines[3]
