"""Puts the compiled cores into the wheel, with hatchling: where there is a C compiler, else the wheel is a pure one.

What is built, and how, is the work of tools/compile_core.py, which finds a build that is there already. An editable
installation gets nothing from here: it finds build/compiled/ itself (protocol/compiled.py).
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

TYPES_OF = ("msgspec", "mypy-extensions", "numpy", "simpy")
"""Libraries that the cores are compiled against: mypy must see their types."""


class CompiledCores(BuildHookInterface[Any]):
    """Compiles before a wheel is packed, and adds the build to it."""

    def dependencies(self) -> list[str]:
        """What an isolated build installs for it; nothing where there is no compiler."""
        core = _compile_core(self.root)
        if os.environ.get(core.VARIABLE) == "0":
            return []
        try:
            core.find_compiler()
        except core.CannotCompileError:
            return []
        own = self.metadata.core
        libraries = [line for line in own.dependencies if line.partition(">")[0] in TYPES_OF]
        return [*own.optional_dependencies["compile"], *libraries]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, unless it is an editable installation, or a compiled one was not wanted."""
        core = _compile_core(self.root)
        if version == "editable" or os.environ.get(core.VARIABLE) == "0":
            return
        inside = "bufferlab/protocol/_compiled"
        try:
            build: Path = core.ensure(self.app.display_info)
        except core.CannotCompileError as error:
            self.app.display_warning(f"The wheel is a pure one, whose cores are several times slower: {error}")
            # So that `bufferlab --version` can say why.
            build_data["force_include"][str(core.BUILDS / core.FAILURE)] = f"{inside}/{core.FAILURE}"
            return
        build_data["force_include"][str(build)] = f"{inside}/{build.name}"
        build_data["pure_python"] = False
        build_data["infer_tag"] = True


def _compile_core(root: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location("compile_core", Path(root, "tools", "compile_core.py"))
    if spec is None or spec.loader is None:
        raise ImportError("tools/compile_core.py cannot be loaded")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
