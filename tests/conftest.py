"""What holds for all tests."""

import signal

import pytest

from bufferlab.protocol.compiled import state


def pytest_configure() -> None:
    """Take Ctrl-C, and hand it on to the processes that tests start, also where a shell started pytest without it.

    A shell without job control starts what runs in its background with SIGINT ignored, and children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the sources as they are where compiled modules run; `make test` runs these tests once more."""
    if state().folder is not None:
        skip = pytest.mark.skip(reason="replaces or looks into what is compiled; BUFFERLAB_COMPILED=0 runs it")
        for item in items:
            if item.get_closest_marker("interpreted") is not None:
                item.add_marker(skip)
