"""Sizing policies: how many tokens the language side preallocates for a request whose length it does not know.

A new policy is one small class in a file of its own; see ``base.SizingPolicy`` for the two methods it has, and
``registry``, which finds it there, for policies that live elsewhere.
"""

from bufferlab.protocol.sizing.base import SizingPolicy
from bufferlab.protocol.sizing.ewma import EwmaMargin
from bufferlab.protocol.sizing.fixed import Fixed
from bufferlab.protocol.sizing.newsvendor import Newsvendor
from bufferlab.protocol.sizing.oracle import Oracle
from bufferlab.protocol.sizing.per_client import PerClientQuantile
from bufferlab.protocol.sizing.pressure import PressureAware
from bufferlab.protocol.sizing.quantile import Quantile
from bufferlab.protocol.sizing.registry import POLICIES, find_policy, make_policy
from bufferlab.protocol.sizing.regression import HintRegression
from bufferlab.protocol.sizing.supervised import SizingError, Supervised, must_answer_alike
from bufferlab.protocol.sizing.views import CompletedView, RequestView

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
