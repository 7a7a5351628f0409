"""Addresses of hosts: how a user writes them, whose they are, and which interface has them. IPv4, as ZeroMQ's and
Mooncake's ways between the ranks are here."""

from __future__ import annotations

import ipaddress
import socket

import psutil


def parse_address(text: str, option: str, *, lowest_port: int = 1) -> tuple[str, int]:
    """The IPv4 address and the port in ``text``, HOST:PORT with a name or an address.

    Raises ValueError with one sentence that names ``option`` when it is something else.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not lowest_port <= int(port) <= 65535:
        raise ValueError(
            f"{option} is {text!r}, it must be HOST:PORT with a name or IPv4 address and a port from {lowest_port} "
            f"to 65535"
        )
    return resolve(host, option), int(port)


def resolve(host: str, option: str) -> str:
    """The IPv4 address of a host. Raises ValueError when there is none, or when it names no single host."""
    try:
        address = str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except (OSError, UnicodeError):  # an impossible name is an error of its encoding
        raise ValueError(
            f"{option} names the host {host!r}, it must be an IPv4 address or a name that has one"
        ) from None
    if ipaddress.IPv4Address(address).is_unspecified or ipaddress.IPv4Address(address).is_multicast:
        raise ValueError(f"{option} names {address}, it must be an address by which others reach one host")
    return address


def is_loopback(address: str) -> bool:
    """Whether only processes of the same host can reach ``address``."""
    return ipaddress.IPv4Address(address).is_loopback


def require_own(address: str, option: str) -> None:
    """Raise ValueError unless ``address`` is one of this machine's."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            raise ValueError(
                f"{option} names {address}, it must be an address of this machine, which has {', '.join(own())}"
            ) from None


def own() -> list[str]:
    """This machine's IPv4 addresses."""
    return sorted(
        one.address for ones in psutil.net_if_addrs().values() for one in ones if one.family is socket.AF_INET
    )


def towards(address: str) -> str:
    """The address of this machine from which it reaches ``address``. Raises ValueError when no route leads there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((address, 9))  # sends nothing: the kernel only chooses a route
        except OSError as error:
            raise ValueError(f"no route leads from this machine to {address} ({error.strerror})") from None
        return str(probe.getsockname()[0])


def interface_of(address: str) -> str | None:
    """The name of this machine's interface with ``address``; None when there is none."""
    for name, ones in psutil.net_if_addrs().items():
        for one in ones:
            # All of 127.0.0.0/8 is the loopback interface's, though it lists one address.
            same = one.address == address or (is_loopback(address) and one.address == "127.0.0.1")
            if one.family is socket.AF_INET and same:
                return name
    return None


def listen(host: str, port: int = 0) -> socket.socket:
    """A listening socket, made by whoever must know the port first."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError:
        listener.close()
        raise
    return listener
