"""The sections [[faults]], [[incidents]] and [random_faults]: what is made to go wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import (
    BeforeValidator,
    Field,
    create_model,
    model_validator,
)

from bufferlab.experiments.config.incidents import PARSERS, incident_of
from bufferlab.experiments.config.sections.base import SIMULATED, Allowed, Duration, Only, Section, Share, known
from bufferlab.protocol import faults as incidents
from bufferlab.protocol.faults import KINDS, RATES, SETTINGS, Setting
from bufferlab.protocol.lifecycle import Instance
from bufferlab.protocol.topology import RankId


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


class _Incident(Section):
    """Something that goes wrong at a time: which settings there are depends on its kind."""

    kind: Annotated[str, known(KINDS)] = Field(description=f"Which kind it is: {', '.join(KINDS)}.")

    @model_validator(mode="after")
    def _of_its_kind(self) -> Self:
        needed = KINDS[self.kind].settings()
        for name in SETTINGS:
            if (getattr(self, name) is None) is (name in needed):
                wrong = "is missing" if name in needed else "is not allowed"
                raise ValueError(f"{name} {wrong}: a {self.kind} has {', '.join(needed)}")
        return self

    def planned(self) -> incidents.Incident:
        """The incident itself."""
        return incident_of(self.kind, dict(self))


_SETTINGS_OF_KINDS = [kind.settings() for kind in KINDS.values()]
_OF_RANKS = {RankId: "a rank such as language0.1", Instance: "an instance such as encode0"}


def _setting(name: str, setting: Setting) -> tuple[Any, Any]:
    """The type of a setting of incidents, and what it is."""
    (type_,) = {settings[name] for settings in _SETTINGS_OF_KINDS if name in settings}
    least = Field(ge=int(setting.least))
    value: Any
    if type_ in PARSERS:
        value = Annotated[str, _parsed_by(PARSERS[type_]), Allowed(_OF_RANKS[type_])]
    elif name.endswith("_s"):
        value = Duration
    else:
        value = Annotated[type_, least]
    if not any(name in kind.settings() for kind in KINDS.values() if not kind.not_measured):
        value = Annotated[value, Only(SIMULATED)]
    return value | None, Field(default=None, description=setting.what)


if TYPE_CHECKING:
    Incident = _Incident
else:
    Incident = create_model(
        "Incident",
        __base__=_Incident,
        __module__=__name__,
        __doc__=_Incident.__doc__,
        **{name: _setting(name, setting) for name, setting in SETTINGS.items()},
    )


class RandomFaults(Section):
    """What goes wrong by chance. A measured run allows failed writes only. Rates are shares of all messages, writes or
    requests."""

    lost_messages: Annotated[Share, Only(SIMULATED)] = 0.0
    """Control messages that never arrive."""
    doubled_messages: Annotated[Share, Only(SIMULATED)] = 0.0
    """Control messages that arrive twice, the second one late."""
    late_messages: Annotated[Share, Only(SIMULATED)] = 0.0
    """Control messages that arrive up to most_delay_s late."""
    most_delay_s: Annotated[Duration, Only(SIMULATED)] = 0.1
    """The longest delay of a late message."""
    failed_writes: Share = 0.0
    """Writes that fail."""
    late_writes: Annotated[Share, Only(SIMULATED)] = 0.0
    """Writes that are given up, although their bytes land up to most_late_s later."""
    most_late_s: Annotated[Duration, Only(SIMULATED)] = 0.1
    """The longest time that bytes land after their write was given up."""
    late_requests: Annotated[Share, Only(SIMULATED)] = 0.0
    """Requests that reach a rank up to most_request_delay_s late."""
    most_request_delay_s: Annotated[Duration, Only(SIMULATED)] = 0.1
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
        return any(getattr(self, name) > 0 for name in RATES)
