"""The exit statuses of every command."""

from __future__ import annotations

DONE = 0
CHECK_FAILED = 1
"""It ran, and a check that it states did not hold; or the run broke."""
BAD_INPUT = 2
"""One sentence on standard error, nothing was run and nothing was written."""
INTERRUPTED = 130
TERMINATED = 143
"""By SIGTERM, which is taken for Ctrl-C."""
