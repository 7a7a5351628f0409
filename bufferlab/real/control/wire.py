"""How the two sides speak: what a message is on the control channel, and how the sides find and watch each other.

A rank has one wire. It hands to the wire every message for the other side, and every multipart that has come and is no
command; the wire says what that means: inputs of the rank's core, or that a process now stands for a rank. There are
two wires: *extended*, below, has frames of its own with everything the cores say; *sglang* (``real.control.sglang``)
speaks the SGLang fork's frames and nothing else.
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from bufferlab.protocol.errors import CodecError
from bufferlab.protocol.messages import Abort, Message
from bufferlab.protocol.topology import RankId, Side
from bufferlab.protocol.wire.codec import decode, encode
from bufferlab.real.control.channel import Processes, Standing
from bufferlab.real.control.guard import guard_of
from bufferlab.real.control.heartbeat import Found, Heartbeat, News
from bufferlab.real.control.registry_client import register_and_find
from bufferlab.real.control.route import Route
from bufferlab.real.control.spec import RankSpec
from bufferlab.real.errors import EngineError
from bufferlab.real.faults import CorruptFrame

START_TIMEOUT_S = 60.0


class Vacant(msgspec.Struct, frozen=True):
    """The process that stood for this rank is gone, and another one may take its place by what it says."""

    rank_id: RankId


Decoded = Message | Abort | Found | Vacant
"""What a wire makes of frames: an input of the core, or news of who stands for a rank."""


class Connection(Protocol):
    """What a wire needs of the rank that it belongs to."""

    def push(self, to: RankId, frames: list[bytes]) -> None:
        """Send a multipart to the process that stands for ``to``. One that was never met is not sent to."""

    def later(self, delay_s: float, message: Message) -> None:
        """Tell the core ``message`` when ``delay_s`` have passed, as if it had come from the other side."""

    def contact(self, session: str) -> None:
        """Have the engine make its first contact with a process, which takes milliseconds, before it must write."""


class Wire(ABC):
    """One rank's way of speaking to the other side.

    ``peers``: the ranks of the other side that this rank watches. ``frames_dropped``: multiparts that could not be
    understood. ``messages_stale``: those from, for or about what has ended.
    """

    def __init__(self, spec: RankSpec, own: Route, connection: Connection) -> None:
        self.spec = spec
        self.own = own
        self.frames_dropped = 0
        self.messages_stale = 0
        self.peers: tuple[RankId, ...] = ()
        self._connection = connection
        self._guard = guard_of(spec.token)

    @abstractmethod
    def assemble(self) -> dict[RankId, Route]:
        """Make this process known, and find the own group and those of the other side that are up and can be found.

        Blocks. Raises EngineError or TimeoutError when somebody is missing for good.
        """

    @abstractmethod
    def watch(self, known: Mapping[RankId, Route], on_news: Callable[[News | Exception], None]) -> Heartbeat:
        """Start watching the other side, of which ``known`` is known."""

    @abstractmethod
    def meet(self, route: Route) -> None:
        """From now on ``route`` stands for its rank, or does so again."""

    @abstractmethod
    def send(self, to: RankId, message: Message) -> None:
        """Say ``message`` to ``to``."""

    @abstractmethod
    def take(self, frames: list[bytes]) -> Iterable[Decoded]:
        """What a multipart from the other side means; nothing when it is stale or no frame of this wire."""

    def released(self) -> Iterable[Decoded]:
        """What had been held until a process was met, and is due now."""
        return ()

    def submitted(self, room: int) -> Iterable[Decoded]:
        """What had been held until the request ``room`` came, which it has."""
        return ()

    def lost(self, rank_id: RankId) -> Iterable[Decoded]:
        """What follows when the process that stood for ``rank_id`` is gone, beyond that."""
        return ()

    def greet(self, peers: Iterable[RankId]) -> None:  # noqa: B027 - a wire need not have greetings
        """Make sure that ``peers`` know of this process, which has taken over a name."""

    @property
    def greeting(self) -> bool:
        """Whether somebody has not answered ``greet`` yet."""
        return False

    def awaits_quiet(self, room: int) -> bool:
        """Whether only the end of a quarantine is missing until the blocks of ``room`` are free."""
        return False

    def drop(self, reason: object) -> None:
        """Count a multipart that is not understood, and say why."""
        # A frame that is not understood is lost, like a message that never came: the rooms' timers deal with it.
        self.frames_dropped += 1
        sys.stderr.write(f"{self.own.rank_id}: dropped a control frame: {reason}\n")


# --- the extended wire ---------------------------------------------------------------------------------------------

HELLO, WELCOME = b"bufferlab-hello", b"bufferlab-welcome"
"""First frames of what a restarted process and its peers say to each other, the second is the speaker's rank. A process
takes no requests before its peers know it: they would take it for the one that has ended, and fail them."""


class ExtendedWire(Wire):
    """All messages in full, each bound to the processes it comes from and goes to (see ``real.control.channel``)."""

    def __init__(self, spec: RankSpec, own: Route, connection: Connection) -> None:
        super().__init__(spec, own, connection)
        self._processes = Processes(own.process)
        self._unwelcome: set[RankId] = set()
        self._heartbeat: Heartbeat | None = None
        self._corruptions = [
            fault for fault in spec.faults if isinstance(fault, CorruptFrame) and fault.sender == own.rank_id
        ]
        scenario, here = spec.scenario, own.rank_id.instance
        self._watched: dict[str, Sequence[RankId]]
        if own.rank_id.side is Side.ENCODE:
            # A registry belongs to its instance; the language side comes to all of them.
            self._watched = {spec.bootstraps[here]: scenario.language_ids()}
        else:
            self._watched = {
                address: [rank_id for rank_id in scenario.encode_ids() if rank_id.instance == instance]
                for instance, address in enumerate(spec.bootstraps)
            }
        self.peers = tuple(rank_id for ranks in self._watched.values() for rank_id in ranks)

    def assemble(self) -> dict[RankId, Route]:
        """Register everywhere, and find everybody but those who are down now."""
        scenario, rank_id = self.spec.scenario, self.own.rank_id
        is_encode = rank_id.side is Side.ENCODE
        registries = {
            address: there
            for address, ranks in self._watched.items()
            if (there := [one for one in ranks if (one.side, one.instance) not in self.spec.absent]) or is_encode
        }
        if not registries:
            raise EngineError(f"{rank_id} finds no encode instance up")
        side = scenario.encode_ids() if is_encode else scenario.language_ids()
        group = [one for one in side if one.instance == rank_id.instance]
        return register_and_find(registries, self.own, group, START_TIMEOUT_S, self._guard)

    def watch(self, known: Mapping[RankId, Route], on_news: Callable[[News | Exception], None]) -> Heartbeat:
        """Watch the registries."""
        self._heartbeat = Heartbeat(self.own, self._watched, known, self.spec.heartbeats, on_news, self._guard)
        return self._heartbeat

    def meet(self, route: Route) -> None:
        """Bind the rank's name to this process."""
        self._processes.meet(route)

    def released(self) -> Iterable[Decoded]:
        """What processes said before they were known."""
        for frames in self._processes.released():
            yield from self._understood(frames)

    def greet(self, peers: Iterable[RankId]) -> None:
        """Say hello to ``peers``; each will answer."""
        for peer in peers:
            self._unwelcome.add(peer)
            self._say(HELLO, peer)

    @property
    def greeting(self) -> bool:
        """Whether a hello has not been answered yet."""
        return bool(self._unwelcome)

    def send(self, to: RankId, message: Message) -> None:
        """Send ``message`` in full, for the process that stands for ``to`` now."""
        route = self._processes.current(to)
        if route is None:
            return  # no process has ever had this name; the core knows that it is down
        frames = encode(message)
        for fault in self._corruptions:
            if (fault.room, fault.message) == (message.room, type(message).__name__):
                self._corruptions.remove(fault)
                frames[1] = frames[1][:-1] + bytes([frames[1][-1] ^ 1])
                break
        self._connection.push(to, self._processes.seal(frames, route))

    def take(self, frames: list[bytes]) -> Iterable[Decoded]:
        """What a current process says."""
        standing, own_frames = self._processes.open(frames)
        if standing is Standing.CURRENT:
            yield from self._understood(own_frames)
        elif standing is Standing.STALE:
            self.messages_stale += 1
        elif self._heartbeat is not None:
            self._heartbeat.hurry()  # it has registered before it spoke

    def _understood(self, frames: list[bytes]) -> Iterable[Message]:
        if frames and frames[0] in (HELLO, WELCOME):
            try:
                peer = msgspec.msgpack.decode(b"".join(frames[1:2]), type=RankId)
            except (msgspec.MsgspecError, ValueError, RecursionError) as error:
                self.drop(f"no greeting: {error}")
                return
            if frames[0] == HELLO:
                self._say(WELCOME, peer)
            self._unwelcome.discard(peer)
            return
        try:
            yield decode(frames)
        except CodecError as error:
            self.drop(error)

    def _say(self, greeting: bytes, to: RankId) -> None:
        route = self._processes.current(to)
        if route is not None:
            own = msgspec.msgpack.encode(self.own.rank_id)
            self._connection.push(to, self._processes.seal([greeting, own], route))
