"""The shipped examples: their names, their commented texts and their titles."""

from __future__ import annotations

from importlib import resources

from bufferlab.experiments.errors import UserError
from bufferlab.protocol.naming import did_you_mean


def example_names() -> list[str]:
    """Names of the shipped examples."""
    folder = resources.files("bufferlab.experiments.config") / "examples"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def example_text(name: str) -> str:
    """The commented TOML text of a shipped example. Raises UserError for an unknown one."""
    if name not in example_names():
        hint = did_you_mean(name, example_names())
        raise UserError(f"there is no example {name!r}{hint}, the shipped ones are {', '.join(example_names())}")
    return (resources.files("bufferlab.experiments.config") / "examples" / f"{name}.toml").read_text(encoding="utf-8")


def example_title(name: str) -> str:
    """The first comment line of an example."""
    return example_text(name).splitlines()[0].lstrip("# ").strip()
