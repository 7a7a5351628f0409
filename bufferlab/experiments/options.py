"""Options that have no effect with others, in one sentence that every command tells alike."""

from __future__ import annotations


def unused_device(option: str, device: str, transport: str) -> str:
    """What is wrong with a device that is named for a transport without devices, in one sentence; else nothing."""
    from bufferlab.real.engine.registry import only_with_devices, with_devices

    if not device or transport in with_devices():
        return ""
    return f"{option} is {device!r}, which has no effect with the transport {transport}: {only_with_devices()}"


def transport_names() -> tuple[str, ...]:
    """Every transport that an engine runs."""
    from bufferlab.real.engine.registry import transports

    return transports()


def transports_with_devices() -> str:
    """Those for which a device can be named, as a list for a sentence."""
    from bufferlab.real.engine.registry import with_devices

    return " or ".join(with_devices())
