"""The sections [[faults]], [[incidents]] and [random_faults]: what is made to go wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    model_validator,
)

from experiments.config.incidents import NEEDS, parse_instance, parse_rank
from experiments.config.sections.base import Duration, Section, Share, known


def _parsed_by(parse: Callable[[str], object]) -> BeforeValidator:
    def check(value: Any) -> Any:
        if isinstance(value, str):
            parse(value)
        return value

    return BeforeValidator(check)


class Fault(Section):
    """A write that fails: chunk ``epoch`` of room ``room``, to every destination or to one language rank."""

    room: Annotated[int, Field(ge=1)]
    """The request's number, counted from 1 in order of arrival."""
    epoch: Annotated[int, Field(ge=0)] = 0
    """The chunk's number, counted from 0."""
    destination: Annotated[int | None, Field(ge=0)] = None
    """The language rank whose write fails; all of them when absent."""


class Incident(Section):
    """Something that goes wrong at a time: which settings there are depends on its kind."""

    kind: Annotated[str, known(NEEDS)]
    """death of a rank, restart of an instance, hang of a rank, slow rank, abort by a client, false-alarm."""
    time_s: Duration | None = None
    """When, counted from the run's start. A slow rank is slow from the start."""
    rank: Annotated[str, _parsed_by(parse_rank)] | None = None
    """Whose, such as language0.1."""
    observer: Annotated[str, _parsed_by(parse_rank)] | None = None
    """The rank that takes ``rank`` for dead in a false alarm."""
    instance: Annotated[str, _parsed_by(parse_instance)] | None = None
    """The instance that restarts, such as language0."""
    lasts_s: Duration | None = None
    """How long the hang or the false alarm lasts, or until new processes are there after a restart."""
    factor: Annotated[float | None, Field(ge=1)] = None
    """How many times longer the turns and writes of a slow rank take."""
    room: Annotated[int | None, Field(ge=1)] = None
    """The request that is aborted, counted from 1 in order of arrival."""

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        needed = NEEDS[self.kind]
        for name in type(self).model_fields:
            if name != "kind" and (getattr(self, name) is None) is (name in needed):
                wrong = "is missing" if name in needed else "is not allowed"
                raise ValueError(f"{name} {wrong}: a {self.kind} has {', '.join(needed)}")
        return self


class RandomFaults(Section):
    """What goes wrong by chance; in a measured run only failed writes. Rates are shares of all messages, writes or
    requests."""

    lost_messages: Share = 0.0
    """Control messages that never arrive."""
    doubled_messages: Share = 0.0
    """Control messages that arrive twice, the second one late."""
    late_messages: Share = 0.0
    """Control messages that arrive up to most_delay_s late."""
    most_delay_s: Duration = 0.1
    """The longest delay of a late message."""
    failed_writes: Share = 0.0
    """Writes that fail."""
    late_writes: Share = 0.0
    """Writes that are given up, although their bytes land up to most_late_s later."""
    most_late_s: Duration = 0.1
    """The longest time that bytes land after their write was given up."""
    late_requests: Share = 0.0
    """Requests that reach a rank up to most_request_delay_s late."""
    most_request_delay_s: Duration = 0.1
    """The longest delay of a request."""
    until_s: Duration | None = None
    """When the rates end; never when absent."""
    heartbeat_s: Duration = 5.0
    """How often a rank asks its peers whether they live."""
    heartbeat_failures: Annotated[int, Field(ge=1)] = 2
    """Heartbeats in a row that must fail before a peer is taken for dead."""

    @property
    def happens(self) -> bool:
        """Whether any rate is above 0."""
        return any(
            getattr(self, name) > 0
            for name in (
                *("lost_messages", "doubled_messages", "late_messages", "failed_writes", "late_writes"),
                "late_requests",
            )
        )
