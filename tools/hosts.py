"""Several hosts on one machine: network namespaces, each with an address of its own, on one switch.

    python tools/hosts.py --hosts 3 --rate 200mbit -- seed-resume --set language.tp=2 --out runs/three-hosts

runs ``bufferlab real`` with the coordinator on the first host and the ranks on all of them in turn, by the commands
that several machines need, prints them, what the coordinator prints, and the bytes that crossed each interface.

Every host is a namespace with a ``lo`` and an ``eth0``, whose other end is a port of a bridge in a namespace of its
own; the machine's own network is not touched. ``--rate`` shapes what each host sends. Needs Linux, root and the
commands ``ip`` and ``tc`` (Debian: iproute2). All hosts share one kernel, hence one clock: measured offsets must be 0.

Exit status: that of the run; 2 when namespaces cannot be made here.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

NETWORK = "10.77.0"
INTERFACE = "eth0"
PORT = 7077
BUFFERLAB = (sys.executable, "-m", "bufferlab")

# The bucket must hold what the kernel hands over at once; the queue then holds a twentieth of a second.
SHAPE = "burst 128kb latency 50ms"


class NoHostsError(RuntimeError):
    """Namespaces, or what was wanted of them, cannot be made here; the message says what is missing."""


@dataclass(frozen=True)
class Host:
    """A namespace that stands for a host, reached by the others at ``address``."""

    name: str
    address: str

    def command(self, arguments: Sequence[str]) -> list[str]:
        """What starts ``arguments`` on this host."""
        return ["ip", "netns", "exec", self.name, *arguments]

    def traffic_bytes(self) -> tuple[int, int]:
        """Bytes that have crossed its interface: sent, received."""
        [link] = json.loads(_do("ip", "-n", self.name, "-json", "-statistics", "link", "show", INTERFACE))
        return link["stats64"]["tx"]["bytes"], link["stats64"]["rx"]["bytes"]

    def processes(self) -> list[int]:
        """Processes that run on it."""
        return [int(word) for word in _do("ip", "netns", "pids", self.name).split()]


@contextlib.contextmanager
def hosts(count: int, rate: str = "") -> Iterator[list[Host]]:
    """So many hosts on one switch; gone, with whatever still runs on them, when the context is left.

    ``rate``: of what each sends, as ``tc`` writes it ("200mbit"); unshaped without. Raises NoHostsError.
    """
    for command in ("ip", "tc"):
        if shutil.which(command) is None:
            raise NoHostsError(f"the command {command} is missing (Debian: apt-get install iproute2)")
    prefix = f"bufferlab-{secrets.token_hex(3)}"
    switch = f"{prefix}-switch"
    made = [Host(f"{prefix}-{number}", f"{NETWORK}.{number}") for number in range(1, count + 1)]
    try:
        _do("ip", "netns", "add", switch)
        _do("ip", "-n", switch, "link", "add", "bridge", "type", "bridge")
        _do("ip", "-n", switch, "link", "set", "bridge", "up")
        for number, host in enumerate(made, 1):
            port = f"port{number}"
            _do("ip", "netns", "add", host.name)
            _do("ip", "-n", switch, "link", "add", port, "type", "veth", "peer", INTERFACE, "netns", host.name)
            _do("ip", "-n", switch, "link", "set", port, "master", "bridge", "up")
            _do("ip", "-n", host.name, "address", "add", f"{host.address}/24", "dev", INTERFACE)
            _do("ip", "-n", host.name, "link", "set", "lo", "up")
            _do("ip", "-n", host.name, "link", "set", INTERFACE, "up")
            if rate:
                _do("tc", "-n", host.name, *f"qdisc add dev {INTERFACE} root tbf rate {rate} {SHAPE}".split())
        yield made
    finally:
        existing = {line.split()[0] for line in _do("ip", "netns", "list").splitlines() if line.strip()}
        for name in [host.name for host in made] + [switch]:
            if name in existing:
                for process in Host(name, "").processes():
                    with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                        os.kill(process, signal.SIGKILL)
                _do("ip", "netns", "delete", name)


def why_not(rate: str = "") -> str:
    """What is missing here for ``hosts``; empty if nothing is."""
    try:
        with hosts(1, rate):
            return ""
    except NoHostsError as error:
        return str(error)


def rank_arguments(encode: int, language: int, bootstrap: str) -> list[list[str]]:
    """The arguments of every rank of a run with so many ranks of each side."""
    ranks = [("encode", number) for number in range(encode)] + [("language", number) for number in range(language)]
    return [["real", "--role", role, "--rank", str(number), "--bootstrap", bootstrap] for role, number in ranks]


def _do(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoHostsError(f"`{shlex.join(command)}` fails: {done.stderr.strip()}")
    return done.stdout


def run(made: Sequence[Host], arguments: Sequence[str]) -> int:
    """Run ``bufferlab real`` with these arguments over the hosts; the coordinator's exit status."""
    from bufferlab.experiments.workloads.loading import load

    settings = [value for flag, value in itertools.pairwise(arguments) if flag == "--set"]
    config = load(arguments[0], settings)
    bootstrap = f"{made[0].address}:{PORT}"
    encode, language = (side.instances * side.tp for side in (config.encode, config.language))
    commands = [(made[0], ["real", *arguments, "--bootstrap", bootstrap])]
    for number, rank in enumerate(rank_arguments(encode, language, bootstrap)):
        commands.append((made[number % len(made)], rank))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    processes = []
    for host, command in commands:
        print(f"{host.address}$ bufferlab {shlex.join(command)}", file=sys.stderr)
        processes.append(subprocess.Popen(host.command([*BUFFERLAB, *command]), env=environment))
    for process in reversed(processes):
        process.wait()
    for host in made:
        sent, received = host.traffic_bytes()
        print(f"{host.address}: {sent:,} bytes sent, {received:,} received")
    return processes[0].returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--hosts", type=int, default=2, choices=range(1, 201), metavar="1-200")
    parser.add_argument("--rate", default="", help="what each host may send, as tc writes it: 200mbit")
    parser.add_argument("arguments", nargs="+", metavar="ARGUMENT", help="of bufferlab real; CONFIG first")
    options = parser.parse_args()
    try:
        with hosts(options.hosts, options.rate) as made:
            return run(made, options.arguments)
    except NoHostsError as error:
        print(f"hosts: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
