"""Options that have no effect with others, in one sentence that every command tells alike."""

from __future__ import annotations


def unused_device(option: str, device: str, transport: str) -> str:
    """What is wrong with a device that is named for a transport without devices, in one sentence; else nothing."""
    from real.engine.registry import engines

    if not device or transport in engines()[transport].device_transports:
        return ""
    return f"{option} is {device!r}, which has no effect with the transport {transport}: only rdma has devices"
