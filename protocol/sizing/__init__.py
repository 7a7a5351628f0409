"""Sizing policies: how many tokens the language side preallocates for a request whose length it does not know.

A new policy is one small class in a file of its own; see ``base.SizingPolicy`` for the two methods it has.
"""

from protocol.sizing.base import CompletedView, RequestView, SizingPolicy
from protocol.sizing.fixed import Fixed
from protocol.sizing.oracle import Oracle
from protocol.sizing.quantile import Quantile

POLICIES: dict[str, type[SizingPolicy]] = {policy.name: policy for policy in (Fixed, Quantile, Oracle)}

__all__ = [
    "POLICIES",
    "CompletedView",
    "Fixed",
    "Oracle",
    "Quantile",
    "RequestView",
    "SizingPolicy",
]
