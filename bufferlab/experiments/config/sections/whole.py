"""All sections together, with what follows from them alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    Field,
)

from bufferlab.experiments.config.sections.base import NEVER, Section
from bufferlab.experiments.config.sections.faults import Fault, Incident, RandomFaults
from bufferlab.experiments.config.sections.link import Link, Model
from bufferlab.experiments.config.sections.protocol import Protocol
from bufferlab.experiments.config.sections.run import Real, Run, Slo
from bufferlab.experiments.config.sections.serving import Encode, Language, Serving
from bufferlab.experiments.config.sections.workload import Workload
from bufferlab.experiments.units import parse_size
from bufferlab.protocol.layout import BufferLayout
from bufferlab.protocol.sizing.places import files_of


class Sections(Section):
    """A whole run, each section of which is right by itself."""

    run: Run = Run()
    workload: Workload
    protocol: Protocol = Protocol()
    encode: Encode = Encode()
    language: Language = Language()
    link: Link = Link()
    model: Model = Model()
    faults: Annotated[tuple[Fault, ...], Field(strict=False)] = ()
    incidents: Annotated[tuple[Incident, ...], Field(strict=False)] = ()
    random_faults: RandomFaults = RandomFaults()
    slo: Slo = Slo()
    real: Real = Real()

    @property
    def layout(self) -> BufferLayout:
        """The buffer layout of both sides."""
        return BufferLayout(self.protocol.block_tokens, *self.model.shape)

    def blocks(self, section: Serving) -> int:
        """Blocks of one rank's pool, converted where the configuration gives memory."""
        pool = section.pool_blocks
        return pool if isinstance(pool, int) else parse_size(pool) // self.layout.bytes_per_block

    def tree(self) -> dict[str, Any]:
        """Plain dictionaries that ``parse`` turns into this configuration again."""
        tree = self.model_dump(mode="json", exclude_none=True)
        tree["protocol"].setdefault("timeout_s", NEVER)
        for name in ("faults", "incidents", "slo"):
            if not tree[name]:
                del tree[name]
        return tree

    @property
    def disturbed(self) -> bool:
        """Whether anything is made to go wrong."""
        return bool(self.faults or self.incidents) or self.random_faults.happens

    def input_files(self) -> list[Path]:
        """Files the run depends on beside the configuration."""
        names = [*self.workload.input_files(), self.encode.profile, self.language.profile, self.link.profile]
        paths = {Path(name) for name in names if name} | set(files_of(self.protocol.sizing.policy))
        return [path for path in sorted(paths) if path.is_absolute()]
