"""The two wires, and what the SGLang fork's cannot say: a run over it is held to what its frames can tell."""

from __future__ import annotations

from bufferlab.protocol.disciplines import DISCIPLINES

EXTENDED, SGLANG = "extended", "sglang"
WIRES = (EXTENDED, SGLANG)
FORK_DISCIPLINE = "alloc_then_free"
"""What the fork does, and so the discipline of its wire when none is named."""


def sglang_problem(*, discipline: str, resume_tokens: int | None, timeout_s: float | None) -> tuple[str, str]:
    """What a run over the sglang wire cannot have: the setting's name, and what it must be and why. Empty for nothing.

    Its frames have no length before the data (so nothing is announced), one resume (a second partial status could not
    be told from a doubled first one), and no way for the language side to call a room off (so only the encode side's
    timers end one that it does not hear of any more).
    """
    fitting = [name for name, one in DISCIPLINES.items() if one.one_resume]
    if discipline not in fitting:
        lacks = "announces a length" if DISCIPLINES[discipline].announces_length else "may resume several times"
        return "discipline", f"must be one of {', '.join(fitting)} with the sglang wire: this one {lacks}"
    if resume_tokens is not None:
        return "resume_tokens", "must be absent with the sglang wire: a request resumes once, for all that is missing"
    if timeout_s is None:
        return "timeout_s", "must be a duration with the sglang wire, which cannot call a transfer off"
    return "", ""
