"""The end of a measured run: the ranks stop, give their reports and leave."""

from __future__ import annotations

import time
from collections.abc import Callable

from bufferlab.protocol.topology import RankId, Side
from bufferlab.real.errors import in_words
from bufferlab.real.run.commands import Command, Records, Stop
from bufferlab.real.run.patience import Patience
from bufferlab.real.run.processes import Processes
from bufferlab.real.run.ranks import POLL_S
from bufferlab.real.run.state import BREAKS, RunState
from bufferlab.real.run.watching import Watching


class Ending:
    """Ends one run. ``hear`` takes what a rank says."""

    def __init__(
        self,
        patience: Patience,
        state: RunState,
        processes: Processes,
        watching: Watching,
        hear: Callable[[Command], None],
    ) -> None:
        self._patience = patience
        self._state = state
        self._processes = processes
        self._watching = watching
        self._hear = hear

    def end(self) -> None:
        """Have all ranks report, and wait for the ends of all processes."""
        state = self._state
        state.closing = True
        try:
            # The language side first: the encode side must still answer its last cancellations.
            for side in (Side.LANGUAGE, Side.ENCODE):
                self._collect([one for one in state.ranks.ids if one.side is side and state.ranks.alive(one)])
        except BREAKS as error:
            state.troubles.add(state.now_s(), f"the ranks could not give their reports: {in_words(error)}")
            for rank_id, child in state.ranks.children.items():
                if rank_id not in state.reports:
                    child.kill()
        for child in state.ranks.children.values():
            if not child.gone:
                self._processes.see_off(child)

    def _collect(self, members: list[RankId]) -> None:
        state, ranks = self._state, self._state.ranks
        for rank_id in members:
            ranks.send(rank_id, Stop())
        deadline = time.monotonic() + self._patience.report_s
        while missing := [one for one in members if one not in state.reports and ranks.alive(one)]:
            for command in ranks.receive(POLL_S):
                self._hear(command)
                if isinstance(command, Records):  # it is still at work: the last prefills
                    deadline = time.monotonic() + self._patience.report_s
            state.do_due()
            self._watching.look_for_signs()
            late = [ranks.children[rank_id] for rank_id in missing if rank_id not in state.reports]
            self._processes.notice_ends(late)
            for child in late:
                if time.monotonic() > deadline and not child.doomed and not child.gone:
                    state.suffer(child, f"{child.rank_id} gave no account of the run")
                    child.kill()
