"""A sizing policy as a user writes one: twice the mean of what was seen."""

from bufferlab.protocol.sizing import CompletedView, RequestView, SizingPolicy


class TwiceTheMean(SizingPolicy):
    """Twice the mean length of the delivered requests, ``tokens`` before the first."""

    name = "twice_the_mean"

    def __init__(self, tokens: int = 1024) -> None:
        self.tokens = tokens
        self.count = 0
        self.total = 0

    def first_tokens(self, view: RequestView) -> int:
        """The present answer, whatever the request."""
        return 2 * self.total // self.count if self.count else self.tokens

    def completed(self, view: CompletedView) -> None:
        """Learn one length."""
        self.count += 1
        self.total += view.total_tokens
