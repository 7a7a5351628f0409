"""A group's iteration over torch.distributed: the same two minima as ``protocol.agreement``, as gloo all-reduces."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

from bufferlab.protocol.agreement import MOST_ROOMS, NOBODY, Member, hold_iteration, proposed
from bufferlab.protocol.messages import Iteration
from bufferlab.protocol.sizing import SizingError, Supervised
from bufferlab.protocol.sizing.supervised import Answer, checksum, disagreement
from bufferlab.protocol.topology import RankId
from bufferlab.real.control.addresses import interface_of, listen
from bufferlab.real.control.guard import Guard
from bufferlab.real.counts import Durations


class GroupBroken(RuntimeError):  # noqa: N818 - says what is the matter better than ...Error
    """Another rank of the group has ended, so nothing can be agreed on any more."""


_HEADER = 5  # submitted, free_blocks, failed, leaving, number of rooms; then these. 552 bytes in all


@contextmanager
def _together() -> Iterator[None]:
    """Within it every rank of the group is needed."""
    try:
        yield
    except RuntimeError as error:  # how gloo says that a connection has closed
        reason = str(error).splitlines()[0]
        raise GroupBroken(f"another rank of the group takes no part any more ({reason})") from error


class Collective:
    """The group of one instance's ranks. ``port`` is where rank 0 keeps the store; others must be given it.

    ``guard``: of the run's token. ``durations``: of the all-reduces.
    """

    def __init__(self, rank: int, size: int, host: str, timeout_s: float, guard: Guard | None = None) -> None:
        self.rank = rank
        self.size = size
        self._host = host
        self._timeout = timedelta(seconds=timeout_s)
        self._store: TCPStore | None = None
        self._secret = "" if guard is None else guard.key("store").hex()
        self.port = 0
        self.durations = Durations()
        if size > 1 and rank == 0:
            # Left to itself the store listens at all of the machine's addresses.
            listener = listen(host)
            self.port = int(listener.getsockname()[1])
            self._store = TCPStore(
                host,
                self.port,
                size,
                is_master=True,
                timeout=self._timeout,
                wait_for_workers=False,
                master_listen_fd=listener.detach(),
            )

    def join(self, host: str, port: int) -> None:
        """Meet the other ranks; blocks until all are there."""
        if self.size == 1:
            return
        if self._store is None:
            self._store = TCPStore(
                host, port, self.size, is_master=False, timeout=self._timeout, wait_for_workers=False
            )
        interface = interface_of(self._host)
        if interface is not None:  # else gloo takes the one that the host's name leads to, or none that others reach
            os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)
        # It asks nobody who he is, but its keys can be ones that no stranger can name.
        store = PrefixStore(self._secret, self._store)
        dist.init_process_group("gloo", store=store, rank=self.rank, world_size=self.size, timeout=self._timeout)

    def hold_iteration(self, member: Member, *, leaving: bool) -> tuple[Iteration, bool]:
        """One iteration: what the group agreed on, and whether all of it is ready to leave.

        Raises GroupBroken when another rank has ended, or stands still for longer than the time limit.
        """
        if self.size == 1:
            return hold_iteration([member]), leaving
        proposal = member.proposal()
        first = torch.full((_HEADER + MOST_ROOMS,), NOBODY, dtype=torch.int64)
        first[:4] = torch.tensor([*proposal, int(leaving)])
        if self.rank == 0:
            # The others contribute the largest number here, so the minimum is rank 0's list.
            rooms = proposed(member)
            first[4] = len(rooms)
            first[_HEADER : _HEADER + len(rooms)] = torch.tensor(rooms, dtype=torch.int64)
        self._reduce(first)
        submitted, free_blocks, failed, all_leave, count, *numbers = first.tolist()
        candidates = numbers[:count]
        progress: tuple[tuple[int, int], ...] = ()
        if candidates:
            second = torch.tensor(member.progress_of(candidates), dtype=torch.int64)
            self._reduce(second)
            progress = tuple(zip(candidates, second.tolist(), strict=True))
        return Iteration(submitted, free_blocks, failed, progress), bool(all_leave)

    def must_answer_alike(self, rank_id: RankId, policy: Supervised) -> None:
        """Compare what the group's copies of a policy answered since the last iteration; all ranks must call it.

        Raises SizingError on every rank if they differ, and GroupBroken like ``hold_iteration``. Costs an all-reduce of
        16 bytes after iterations with answers: up to the first one that differs all ranks give equally many, so either
        all of them get here with answers or none.
        """
        answers = policy.take_answers()
        if not answers:
            return
        own = checksum(answers)
        bounds = torch.tensor([own, -own], dtype=torch.int64)
        self._reduce(bounds)
        lowest, highest = bounds.tolist()
        if lowest == -highest:
            return
        given: list[tuple[RankId, list[Answer]] | None] = [None] * self.size
        with _together():
            dist.all_gather_object(given, (rank_id, answers))
        raise SizingError(disagreement(policy.title, dict(one for one in given if one is not None)))

    def _reduce(self, numbers: torch.Tensor) -> None:
        """Give every rank the least of each of its group's ``numbers``, in place."""
        began_s = time.monotonic()
        with _together():
            dist.all_reduce(numbers, op=dist.ReduceOp.MIN)
        self.durations.add(time.monotonic() - began_s)

    def leave(self) -> None:
        """End the group; all ranks must call it."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()
