"""The same default for everybody: what the deployed systems do."""

from __future__ import annotations

from typing import ClassVar, Final

from bufferlab.protocol.sizing.base import SizingPolicy
from bufferlab.protocol.sizing.options import check_tokens
from bufferlab.protocol.sizing.views import RequestView


class Fixed(SizingPolicy):
    """Always ``tokens``. SGLang's fork shipped 8192 (one block) and, in an older version, 1024 of 128-token blocks."""

    name: ClassVar[str] = "fixed"

    def __init__(self, tokens: int = 8192) -> None:
        check_tokens(tokens)
        self.tokens: Final = tokens

    def first_tokens(self, view: RequestView) -> int:
        """The constant."""
        return self.tokens
