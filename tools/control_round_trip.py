"""What a control message costs between two processes of this machine, with the guard of a run's token and without.

    python tools/control_round_trip.py

prints the median round trip of both kinds in turn, a line a round; a message is as long as an offer of a few blocks.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import zmq

from bufferlab.real.control.channel import Inbox, Outbox
from bufferlab.real.control.guard import guard_of, new_token

HOST = "127.0.0.1"
ROUNDS = 5
TRIPS = 4000
FIRST = 200
"""Trips at the start of a round that are not counted."""

MESSAGE = [b"BUFL1", bytes(150), b"crc4", b"127.0.0.1:15000/0", b"127.0.0.1:15001/0"]
END = [b"end"]


def answer(token: str, port: int, ports: Any) -> None:
    """Send everything back to ``port``."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    inbox = Inbox(context, HOST, guard_of(token))
    outbox = Outbox(context, HOST, port, guard_of(token))
    ports.put(inbox.port)
    while True:
        inbox.wait(1.0)
        for frames in inbox.messages():
            if frames == END:
                return
            outbox.send(frames)


def median_us(token: str) -> float:
    """The median round trip of one round."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    inbox = Inbox(context, HOST, guard_of(token))
    ports: Any = multiprocessing.Queue()
    other = multiprocessing.Process(target=answer, args=(token, inbox.port, ports))
    other.start()
    outbox = Outbox(context, HOST, ports.get(), guard_of(token))
    trips_s = []
    for _ in range(TRIPS):
        began_s = time.perf_counter()
        outbox.send(MESSAGE)
        while not list(inbox.messages()):
            inbox.wait(1.0)
        trips_s.append(time.perf_counter() - began_s)
    outbox.send(END)
    other.join()
    outbox.close()
    inbox.close()
    context.term()
    return statistics.median(trips_s[FIRST:]) * 1e6


def main() -> int:
    """Measure."""
    rounds = []
    for number in range(1, ROUNDS + 1):
        rounds.append((median_us(""), median_us(new_token())))
        print(f"round {number}: {rounds[-1][0]:.0f} µs without, {rounds[-1][1]:.0f} µs with the token", flush=True)
    without, with_token = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"medians of the rounds: {without:.0f} µs without, {with_token:.0f} µs with the token")
    return 0


if __name__ == "__main__":
    sys.exit(main())
