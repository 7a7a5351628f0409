"""Values: small immutable records that are equal when their fields are.

What passes between cores and drivers by the million is made of these: plain classes with a typed ``__init__``, which a
compiler lays out as structures in memory (see docs/architecture.md). A class names its fields in ``__match_args__``, in
the order of its parameters, and marks each as Final.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeVar


class Value:
    """The base of values: equality, hash, text and copies by the fields."""

    __match_args__: ClassVar[tuple[str, ...]] = ()

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Value) and type(self) is type(other) and fields_of(self) == fields_of(other)

    def __hash__(self) -> int:
        return hash(fields_of(self))

    def __repr__(self) -> str:
        named = [f"{name}={getattr(self, name)!r}" for name in type(self).__match_args__]
        return f"{type(self).__name__}({', '.join(named)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), fields_of(self)


AnyValue = TypeVar("AnyValue", bound=Value)


def fields_of(value: Value) -> tuple[Any, ...]:
    """The fields of a value, in the order of its parameters."""
    return tuple([getattr(value, name) for name in type(value).__match_args__])


def replaced(value: AnyValue, **changes: Any) -> AnyValue:
    """The same value with other fields. Raises TypeError for a field that it does not have."""
    fields = {name: getattr(value, name) for name in type(value).__match_args__}
    return type(value)(**{**fields, **changes})
