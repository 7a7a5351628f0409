"""Sizing policies: how many tokens the language side preallocates for a request whose length it does not know.

A new policy is one small class in a file of its own; see ``base.SizingPolicy`` for the two methods it has, and
``registry``, which finds it there, for policies that live elsewhere.
"""

from protocol.sizing.base import SizingPolicy
from protocol.sizing.ewma import EwmaMargin
from protocol.sizing.fixed import Fixed
from protocol.sizing.newsvendor import Newsvendor
from protocol.sizing.oracle import Oracle
from protocol.sizing.per_client import PerClientQuantile
from protocol.sizing.pressure import PressureAware
from protocol.sizing.quantile import Quantile
from protocol.sizing.registry import POLICIES, find_policy, make_policy
from protocol.sizing.regression import HintRegression
from protocol.sizing.supervised import SizingError, Supervised, must_answer_alike
from protocol.sizing.views import CompletedView, RequestView

__all__ = [
    "POLICIES",
    "CompletedView",
    "EwmaMargin",
    "Fixed",
    "HintRegression",
    "Newsvendor",
    "Oracle",
    "PerClientQuantile",
    "PressureAware",
    "Quantile",
    "RequestView",
    "SizingError",
    "SizingPolicy",
    "Supervised",
    "find_policy",
    "make_policy",
    "must_answer_alike",
]
