"""What holds for all tests."""

import signal


def pytest_configure() -> None:
    """Take Ctrl-C, and hand it on to the processes that tests start, also where a shell started pytest without it.

    A shell without job control starts what runs in its background with SIGINT ignored, and children inherit that.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
