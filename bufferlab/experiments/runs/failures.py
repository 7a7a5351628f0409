"""Why requests failed, counted: reasons that differ in nothing but their numbers are one reason."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping

_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?!\w|\.\d)")
"""A number that is a word of its own: that of language0.1 is a part of its name."""


def counted(reasons: Mapping[str, int]) -> dict[str, int]:
    """How often each reason came, most frequent first.

    A long run of one mistake would else have as many reasons as requests: "500 tokens do not fit the allocation of
    400", "501 tokens …". Such a group is told with … for its numbers, but a reason that stands alone as it is.
    """
    groups: defaultdict[str, list[str]] = defaultdict(list)
    for reason in reasons:
        groups[_NUMBER.sub("…", reason)].append(reason)
    found = Counter(
        {
            members[0] if len(members) == 1 else pattern: sum(reasons[one] for one in members)
            for pattern, members in groups.items()
        }
    )
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))
