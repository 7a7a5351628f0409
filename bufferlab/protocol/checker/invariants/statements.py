"""What the 27 invariants say, and what a core must refuse by itself."""

from __future__ import annotations

from bufferlab.protocol.errors import IllegalTransitionError, OwnershipError

STATEMENTS: dict[int, tuple[str, str]] = {
    1: ("block ownership", "every block is exactly one of free, owned by one room, fenced for one room"),
    2: ("no write into foreign memory", "every write under way targets blocks owned by or fenced for its own room"),
    3: (
        "no read of foreign source",
        "source blocks belong to their room while the encoder or a write uses them, written when full",
    ),
    4: ("no double free", "a block is returned by its owner and once"),
    5: ("terminal absorbing", "a status never falls, Success and Failed never change, a room is concluded once"),
    6: ("monotone progress", "sent, received and promised tokens never fall and never exceed the request"),
    7: (
        "epoch monotone",
        "a write belongs to the chunk its receiver has offered for, never to an earlier or later one",
    ),
    8: ("alignment", "every cut but the last lies at the end of a block and every part fits its grant"),
    9: (
        "delivery correctness",
        "a room is delivered at most once, whole, every token copied once, in order, from where it landed",
    ),
    10: ("no success with a hole", "Success is sent only when every required destination has acknowledged every token"),
    11: ("same cut on all destinations", "for each chunk all destinations of a room are cut at the same token"),
    12: ("agreement", "the ranks of a group take the same decisions, and their queues are equal between iterations"),
    13: (
        "no orphan state",
        "a room exists only after a local submission and until it is reaped; no late message makes one",
    ),
    14: (
        "resume only after all ranks are ready",
        "a write of a chunk starts only when every required destination has offered for it",
    ),
    15: (
        "one outstanding write",
        "at most one write per room and destination is under way, and none starts after a Cancel",
    ),
    16: ("metadata is private", "what is read from a block is read while the room owns it"),
    17: ("capacity precheck", "no room waits for more blocks than its discipline can ever give it"),
    18: ("failure containment", "what happens to one room changes no other room, except of a peer declared down"),
    19: ("message exhaustiveness", "every input is defined in every phase: no exception"),
    20: ("quarantine is temporary", "whatever waits for a silent writer has a timer armed"),
    21: (
        "no deadlock",
        "an unfinished room always has a move or a timer ahead, which is of whoever is waited for, and a due iteration "
        "is known to be due",
    ),
    22: (
        "every room terminates",
        "every room ends, on both sides alike unless the link was down, and whoever fails says so",
    ),
    23: ("every fence falls", "every fenced block becomes free"),
    24: ("no starvation", "first come, first served; no new room overtakes a resume that waits"),
    25: ("abort is prompt", "an aborted room fails at once, whatever it was waiting for"),
    26: ("bounded buffer time", "blocks are released with the copy, not with the prefill"),
    27: ("work conservation", "data, offers of all destinations and no failure mean that a write is under way"),
}


ERRORS: dict[type[Exception], int] = {OwnershipError: 4, IllegalTransitionError: 5}
"""What the core refuses to do itself. Anything else it raises breaks invariant 19."""
