"""How a process of a run is reached: its entry in the registries, and what everybody needs to talk to it."""

from __future__ import annotations

import msgspec

from bufferlab.protocol.topology import RankId, Side

ROUTER = RankId(Side.ENCODE, -1, -1)
"""What the router is called where ranks have names: it is no rank, hence the impossible numbers."""


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One process's entry in a bootstrap registry: how to reach it and where its memory lies.

    ``commands_port``: where it takes the router's commands, if that is another port: control messages of the fork's
    wire come from anybody. ``generation``: how many processes had this rank's name before it. ``session``: its engine's
    peer name, host:port.
    ``bases``: addresses of its pools, one per buffer kind. ``collective_port``: where rank 0 of a group keeps the
    group's store. ``failed_is_quiet``: on the wire of the SGLang fork, whether it says Failed only when nothing of the
    room can land any more.
    """

    rank_id: RankId
    host: str
    control_port: int
    commands_port: int = 0
    generation: int = 0
    session: str = ""
    bases: tuple[int, ...] = ()
    collective_port: int = 0
    failed_is_quiet: bool = False

    @property
    def process(self) -> str:
        """Names the process, not the rank: no two processes of a run share it, whatever rank they stand for."""
        return f"{self.session}/{self.generation}"
