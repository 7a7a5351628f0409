"""Every historic fault is found when it is put back, and the core as it is passes the very same search."""

from __future__ import annotations

import status_faults  # noqa: F401 - fills EXHIBITS
import pytest
from exhibit import EXHIBITS, Exhibit

from protocol.checker.schedule import from_file, replay, to_file

every_exhibit = pytest.mark.parametrize("exhibit", EXHIBITS, ids=lambda exhibit: exhibit.id)


@every_exhibit
def test_the_fault_is_found(exhibit: Exhibit) -> None:
    found = exhibit.explore_fault().findings
    assert found, f"{exhibit.id} shows nowhere in {exhibit.bound}"
    assert found[0].invariant in exhibit.breaks, found[0].what


@every_exhibit
def test_the_core_passes_the_same_search(exhibit: Exhibit) -> None:
    result = exhibit.explore_core()
    assert result.findings == ()
    assert result.complete


@every_exhibit
def test_the_counterexample_replays(exhibit: Exhibit) -> None:
    with pytest.MonkeyPatch.context() as patch:
        exhibit.variant(patch)
        (finding, *_) = exhibit.explore_fault().findings
        again, bound = from_file(to_file(finding, exhibit.bound))
        assert again == finding
        assert finding.invariant in {broken.invariant for broken in replay(bound, again.moves).broken}
