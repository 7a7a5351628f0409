"""Folders of ServeGen's clients, whose day is replayed (``experiments.workloads.servegen``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from bufferlab.experiments.workloads.readers.base import Gives, Head, Reader, register
from bufferlab.experiments.workloads.servegen import DAY_S, DRAWS
from bufferlab.sim.workload import Option


@register
class ClientsFolder(Reader):
    """chunk-N-trace.csv and chunk-N-dataset.json for every client."""

    title: ClassVar[str] = "a folder of ServeGen's clients"
    gives: ClassVar[Gives] = "clients"
    options: ClassVar[Mapping[str, Option]] = {
        "start_s": Option(default=0.0, least=0, most=DAY_S - 1, help="second of the day at which the replay starts"),
        "draw": Option(
            default="comonotone",
            choices=DRAWS,
            help="whether long texts come with many images, as in ServeGen's generator, or each is drawn by itself",
        ),
    }

    @classmethod
    def matches(cls, head: Head) -> bool:
        """Any folder; what it lacks is said when it is read."""
        return head.container == "folder"
