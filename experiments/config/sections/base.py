"""What all sections have in common, and the types that several of them use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
)

from experiments.units import parse_duration
from protocol.naming import did_you_mean

NEVER = "never"


class Section(BaseModel):
    """Base of all sections: frozen, strict, no unknown settings, no NaN."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )


def duration(value: Any) -> float:
    """Seconds, or a text such as 20ms."""
    return parse_duration(value)


def known(names: Iterable[str]) -> BeforeValidator:
    """Refuses what is not among these names."""
    allowed = tuple(names)

    def check(value: Any) -> Any:
        if value not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}{did_you_mean(value, allowed)}")
        return value

    return BeforeValidator(check)


Duration = Annotated[float, BeforeValidator(duration)]
Share = Annotated[float, Field(ge=0, le=1)]
