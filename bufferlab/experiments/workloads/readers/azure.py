"""Azure's inference traces of 2023, 2024 (text) and 2025 (text and images).

github.com/Azure/AzurePublicDataset, CC-BY 4.0. TIMESTAMP is a date and time; ContextTokens are text and images
together; NumImages counts tiles, as far as the numbers tell, and the text part of a request with images is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from bufferlab.experiments.workloads.readers.base import Head, register
from bufferlab.experiments.workloads.readers.columns import Fields
from bufferlab.experiments.workloads.readers.names import IMAGE_COLUMNS, names_of
from bufferlab.experiments.workloads.readers.plain import MOST_IMAGES
from bufferlab.experiments.workloads.readers.tabular import Rows, TableReader, left_out, tokens_or_nothing
from bufferlab.experiments.workloads.readers.times import CHOICES, EARLIEST_S, read_times


@register
class AzureTrace(TableReader):
    """TIMESTAMP, ContextTokens, GeneratedTokens and perhaps NumImages."""

    title: ClassVar[str] = "an Azure trace"

    @classmethod
    def matches(cls, head: Head) -> bool:
        """By its first two columns, without those of parts that no published one has."""
        return head.has("timestamp", "context_tokens") and not head.columns & (IMAGE_COLUMNS - names_of("images"))

    def rows(self, fields: Fields, options: Mapping[str, Any]) -> Rows:
        """The requests of a table with at least one row."""
        time, tokens = fields.named("timestamp", "arrival_s"), fields.named("context_tokens", "total_tokens")
        images = fields.find("images")
        assert time is not None
        assert tokens is not None
        chosen = options.get("time_unit", "auto")
        numbers, bad = time.numbers()
        if chosen == "auto" and not bad.any() and numbers.max() < EARLIEST_S:
            raise time.refuse(0, f"a date and time, as in Azure's traces; if it is a number, {CHOICES}")
        times = read_times(time, chosen=chosen)
        totals, keep = tokens_or_nothing(fields, tokens)
        counts = np.zeros(len(totals), dtype=np.int64)
        if images is not None:
            told = np.fromiter((bool(text) and text.lower() != "nan" for text in images.texts()), bool, len(totals))
            counts = fields.whole(images, 0, MOST_IMAGES, keep=keep & told)
            untold = int((keep & ~told).sum())
            if untold:
                times.notes.append(
                    f"{untold} {'row' if untold == 1 else 'rows'} with nothing in {images.name} taken as without images"
                )
        rows = Rows(
            arrival_s=times.seconds,
            total_tokens=totals,
            text_tokens=np.where(counts == 0, totals, 0),
            more={"images": counts},
            notes=times.notes,
            keep=keep,
        )
        if (counts > 0).any():
            rows.notes.append("which part of a request with images is text is not known: taken as images' tokens")
        left_out(rows)
        return rows
