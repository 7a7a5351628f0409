"""The bytes that a link measurement moves: an endless pattern, computed from the seed, and the memory that holds it.

A measurement sends the pattern from a place of its own, so that bytes left from an earlier measurement, or by the plain
socket, are never taken for the right ones.
"""

from __future__ import annotations

import ctypes
import mmap

import numpy as np

PATTERN_WORDS = 8_388_593
"""Period of the pattern in words of 8 bytes, a prime: no block size repeats it, so a misplaced block is noticed."""

SHIFT_BYTES = 64
"""Measurement number n sends the pattern from byte 64 · n on: a cache line, so that copies stay aligned."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.memcmp.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)


class Pattern:
    """The endless content. ``stretch`` tells what lies where."""

    def __init__(self, seed: int) -> None:
        self._bytes = np.random.PCG64(seed).random_raw(PATTERN_WORDS).view(np.uint8)

    def fill(self, memory: np.ndarray) -> None:
        """Write the pattern's beginning over all of ``memory`` (bytes)."""
        for start in range(0, len(memory), len(self._bytes)):
            part = memory[start : start + len(self._bytes)]
            part[:] = self._bytes[: len(part)]

    def difference(self, memory: np.ndarray, number: int) -> str:
        """One sentence about the first byte of ``memory`` that is not measurement ``number``'s; empty if there is none.

        memcmp looks at the memory at its own speed; only where it finds a difference numpy looks closer.
        """
        period, position, shift = len(self._bytes), 0, number * SHIFT_BYTES
        while position < len(memory):
            start = (position + shift) % period
            length = min(period - start, len(memory) - position)
            expected, found = self._bytes[start : start + length], memory[position : position + length]
            if _libc.memcmp(expected.ctypes.data, found.ctypes.data, length):
                unequal = np.flatnonzero(expected != found)
                first = int(unequal[0])
                return (
                    f"byte {position + first} is 0x{found[first]:02x}, it was sent as 0x{expected[first]:02x} "
                    f"({len(unequal)} of the {length} bytes from {position} on differ)"
                )
            position += length
        return ""


def allocate(size_bytes: int) -> np.ndarray:
    """Page-aligned bytes of which every page is there already, so that no page fault is measured."""
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory = np.frombuffer(pages, dtype=np.uint8)
    memory[:: mmap.PAGESIZE] = 0
    return memory
