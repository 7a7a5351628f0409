"""Random streams by name, so that two policies see the same requests.

Every draw of a run comes from a stream that is named by what it is for, never by when it is drawn. Changing a policy
changes how many draws other parts make, but not what any stream holds (common random numbers).
"""

from __future__ import annotations

from hashlib import blake2b

import numpy


def stream(seed: int, replication: int, role: str, entity: str | int = "") -> numpy.random.Generator:
    """The stream of ``entity`` in ``role`` (such as "arrivals") for one replication of a run.

    The same arguments give the same draws in every process and on every machine: the names go through a cryptographic
    hash, because Python's own differs from process to process. Raises ValueError for a negative number.
    """
    for name, value in (("seed", seed), ("replication", replication)):
        if value < 0:
            raise ValueError(f"{name} is {value}, it must be at least 0")
    digest = blake2b(f"{role}\0{entity}".encode(), digest_size=16).digest()
    words = [int.from_bytes(digest[start : start + 4], "little") for start in range(0, 16, 4)]
    sequence = numpy.random.SeedSequence(seed, spawn_key=(replication, *words))
    return numpy.random.Generator(numpy.random.PCG64(sequence))
