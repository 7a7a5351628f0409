"""How those who take part in a run know each other: whoever has the run's token is one of them.

The token is a random text that the coordinator, or a run on one host for itself, makes anew. Nobody sends it. Keys are
derived from it (HMAC-SHA256 over what they are for), and each kind of port has its own way to ask for a proof:

* *ZeroMQ* (commands, control messages): CURVE. Both ends derive the same two key pairs; a stranger knows neither the
  server's public key, without which no handshake gets anywhere, nor has he a client key that is let in.
* *HTTP* (the registries): every request is signed together with a number that the server has made for itself, one that
  grows with every request, its path and its body. So none is taken twice, or by another server. Answers are signed too.
* *the coordinator's connections*: both ends begin with a random number each; every line is signed with a key of both,
  its direction and its place in the order.

What is said over the last two can be read by whoever sees the network, but not changed, repeated or begun.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import Counter, OrderedDict

import msgspec

LEAST_TOKEN_CHARACTERS = 32

MOST_CLIENTS = 1 << 16
"""Clients of a server whose last number it remembers; all of them have the token."""

MOST_NAMED = 256
"""Addresses that are counted each for itself."""

OTHERS = "others"


class Refusal(msgspec.Struct, frozen=True):
    """So many times something that came to ``port`` from ``address`` did not prove that it had the run's token."""

    port: str
    address: str
    count: int

    def __str__(self) -> str:
        times = "once" if self.count == 1 else f"{self.count} times"
        return f"the {self.port} refused {self.address} {times}: it does not hold the run's token"


class Refusals:
    """Counts, by address, whom one port has refused. For any thread."""

    def __init__(self, port: str) -> None:
        self._port = port
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    def add(self, address: str | None, count: int = 1) -> None:
        """Somebody at ``address`` was refused."""
        with self._lock:
            named = address or "an unknown address"
            if named not in self._counts and len(self._counts) >= MOST_NAMED:
                named = OTHERS
            self._counts[named] += count

    def list(self) -> list[Refusal]:
        """Whom, so far."""
        with self._lock:
            return [Refusal(self._port, address, count) for address, count in sorted(self._counts.items())]


def new_token() -> str:
    """A token that nobody has had before."""
    return secrets.token_urlsafe(32)


class Guard:
    """What a token is good for."""

    def __init__(self, token: str) -> None:
        self._token = token.encode()

    def key(self, purpose: str, *more: bytes) -> bytes:
        """A key of 32 bytes for one purpose."""
        return hmac.digest(self._token, b"\0".join((b"bufferlab", purpose.encode(), *more)), "sha256")

    def curve(self, end: str) -> tuple[bytes, bytes]:
        """The public and the secret key of one ``end``, "server" or "client", as ZeroMQ takes them."""
        import zmq
        from zmq.utils import z85

        secret = z85.encode(self.key(f"curve {end}"))
        return zmq.curve_public(secret), secret


def guard_of(token: str) -> Guard | None:
    """The guard of a token; none without one, where ports are open."""
    return Guard(token) if token else None


def _tag(key: bytes, *parts: bytes) -> str:
    # Every part with its length, so that no two lists of parts look alike.
    framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    return hmac.digest(key, framed, "sha256").hex()


# --- HTTP ---

SCHEME = "bufferlab"
NONCE_HEADER = "X-Bufferlab-Nonce"
ANSWER_HEADER = "X-Bufferlab-Answer"


class Signed(msgspec.Struct, frozen=True):
    """What a request carries to prove that its sender has the token: ``tag`` over all the rest and the request."""

    nonce: str
    client: str
    number: int
    tag: str

    def header(self) -> str:
        """As the value of Authorization."""
        return f"{SCHEME} {self.nonce}:{self.client}:{self.number}:{self.tag}"


def parse_signed(header: str) -> Signed | None:
    """What ``Signed.header`` makes; None for anything else."""
    scheme, _, rest = header.partition(" ")
    fields = rest.split(":")
    if scheme != SCHEME or len(fields) != 4 or not fields[2].isascii() or not fields[2].isdecimal():
        return None
    if len(fields[2]) > 18:
        return None
    return Signed(fields[0], fields[1], int(fields[2]), fields[3])


class HttpClient:
    """Signs what one client asks of one server. ``nonce``: the server's, once it has said it."""

    def __init__(self, guard: Guard) -> None:
        self._key = guard.key("http")
        self._name = secrets.token_hex(16)
        self._number = 0
        self.nonce = ""

    def sign(self, method: str, path: str, body: bytes) -> Signed:
        """The proof for one request; another one for each."""
        self._number += 1
        return Signed(
            self.nonce, self._name, self._number, _request_tag(self._key, self.nonce, self._name, self._number,
                                                               method, path, body)
        )  # fmt: skip

    def answers(self, signed: Signed, status: int, body: bytes, header: str) -> bool:
        """Whether an answer is that of a server that has the token, to this request."""
        return hmac.compare_digest(header.encode(), _answer_tag(self._key, signed, status, body).encode())


class HttpServer:
    """Checks the proofs of requests to one server."""

    def __init__(self, guard: Guard) -> None:
        self._key = guard.key("http")
        self.nonce = secrets.token_hex(16)
        self._numbers: OrderedDict[str, int] = OrderedDict()

    def knows(self, signed: Signed, method: str, path: str, body: bytes) -> bool:
        """Whether the sender has the token, be it for another server or for this one at another time."""
        expected = _request_tag(self._key, signed.nonce, signed.client, signed.number, method, path, body)
        return hmac.compare_digest(signed.tag.encode(), expected.encode())

    def is_new(self, signed: Signed) -> bool:
        """Whether a request that ``knows`` is for this server, and has not been taken before."""
        if signed.nonce != self.nonce or signed.number <= self._numbers.get(signed.client, 0):
            return False
        self._numbers[signed.client] = signed.number
        self._numbers.move_to_end(signed.client)
        if len(self._numbers) > MOST_CLIENTS:
            self._numbers.popitem(last=False)
        return True

    def sign_answer(self, signed: Signed, status: int, body: bytes) -> str:
        """The proof for the answer to a request."""
        return _answer_tag(self._key, signed, status, body)


def _request_tag(key: bytes, nonce: str, client: str, number: int, method: str, path: str, body: bytes) -> str:
    digest = hashlib.sha256(body).digest()
    return _tag(key, b"request", *(str(one).encode() for one in (nonce, client, number, method, path)), digest)


def _answer_tag(key: bytes, signed: Signed, status: int, body: bytes) -> str:
    return _tag(key, b"answer", signed.tag.encode(), str(status).encode(), hashlib.sha256(body).digest())


# --- lines over a connection ---

NONCE_BYTES = 16
TAG_CHARACTERS = 64


class LineSigner:
    """Signs and checks the lines of one connection, each way in its order.

    ``is_server``: which end this is. ``nonces``: the server's and the client's random numbers.
    """

    def __init__(self, guard: Guard, *, is_server: bool, nonces: tuple[bytes, bytes]) -> None:
        self._key = guard.key("line", *nonces)
        self._ways = (b"server", b"client") if is_server else (b"client", b"server")
        self._sent = 0
        self._received = 0

    def sign(self, payload: bytes) -> bytes:
        """The line to send for ``payload``."""
        self._sent += 1
        return _tag(self._key, self._ways[0], str(self._sent).encode(), payload).encode() + payload

    def payload(self, line: bytes) -> bytes | None:
        """What a line that has come says; None if it is not the next one of the other end."""
        tag, payload = line[:TAG_CHARACTERS], line[TAG_CHARACTERS:]
        self._received += 1
        expected = _tag(self._key, self._ways[1], str(self._received).encode(), payload).encode()
        return payload if hmac.compare_digest(tag, expected) else None
