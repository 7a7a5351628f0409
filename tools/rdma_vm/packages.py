"""Fetches Debian packages with the machine's own apt configuration and unpacks them into a folder of our own.

Nothing is installed, so no root is needed. What an installed package already provides is not fetched, except the
kernel and busybox, which the machine itself may have in a form that we cannot use.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

KERNEL = "linux-image-amd64"  # the -cloud kernel has neither Soft-RoCE nor 9p
ALWAYS = ("busybox-static",)
UNLESS_INSTALLED = ("qemu-system-x86", "ibverbs-providers", "iproute2")
LIBRARY_FOLDERS = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
STAMP = "packages.json"
APT_TIMEOUT_S = 60.0
DOWNLOAD_TIMEOUT_S = 600.0


class UnavailableError(RuntimeError):
    """This machine cannot do it; the message is one sentence that says what is missing and what mends it."""


class Tools(NamedTuple):
    """Where everything is that the virtual machine is made of."""

    kernel: Path
    modules: Path
    """Folder of the kernel's modules, named by its release."""
    busybox: Path
    qemu: Path
    rdma: Path
    """iproute2's program that makes a Soft-RoCE device."""
    verbs: Path | None
    """Folder with etc/ and usr/ of the user-space drivers, or None where the system has them itself."""
    libraries: tuple[Path, ...]
    """Folders of shared libraries that the unpacked programs need and the system may lack."""
    firmware: tuple[Path, ...]
    versions: dict[str, str]


def require_host() -> None:
    """Raise UnavailableError unless this machine can run the virtual machine at all."""
    system, machine = platform.system(), platform.machine()
    if system != "Linux" or machine not in ("x86_64", "amd64"):
        raise UnavailableError(f"the machine is {system} on {machine}, it must be Linux on x86-64")
    for program in ("apt-get", "apt-cache", "dpkg-deb", "setpriv", "timeout"):
        if shutil.which(program) is None:
            raise UnavailableError(f"{program} is not on PATH, it must be: packages come from a Debian archive")


def default_cache() -> Path:
    """Where the unpacked packages are kept: outside the repository, so that every clone shares them."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "bufferlab" / "rdma-vm"


def fetch(cache: Path) -> Tools:
    """The tools, from ``cache`` if they are there, else downloaded into it (90 MB, 500 MB unpacked).

    A cache is complete or absent: it is filled under another name and renamed. Raises UnavailableError when a package
    cannot be had.
    """
    if not (cache / STAMP).is_file():
        if cache.is_dir() and any(cache.iterdir()):
            raise UnavailableError(f"the cache is {str(cache)!r}, it must be a new or empty folder, or one we filled")
        cache.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f"{cache.name}.", dir=cache.parent) as unfinished:
            tree = Path(unfinished) / "new"
            tree.mkdir()
            _fill(tree, Path(unfinished))
            try:
                tree.rename(cache)
            except OSError:
                if not (cache / STAMP).is_file():  # otherwise somebody else was faster, which is as good
                    raise
    return locate(cache)


def locate(cache: Path) -> Tools:
    """Where in a filled cache, or else in the system, the tools are."""
    kernel = _only(cache, "boot/vmlinuz-*")
    release = kernel.name.removeprefix("vmlinuz-")
    modules = _only(cache, f"lib/modules/{release}", f"usr/lib/modules/{release}")
    qemu = cache / "usr/bin/qemu-system-x86_64"
    unpacked = qemu.is_file()
    verbs = (cache / "etc/libibverbs.d").is_dir()
    return Tools(
        kernel=kernel,
        modules=modules,
        busybox=_only(cache, "bin/busybox", "usr/bin/busybox"),
        qemu=qemu if unpacked else _installed("qemu-system-x86_64", "qemu-system-x86"),
        rdma=next((path for path in _found(cache, "usr/bin/rdma", "sbin/rdma", "bin/rdma", "usr/sbin/rdma")), None)
        or _installed("rdma", "iproute2"),
        verbs=cache if verbs else None,
        libraries=tuple(cache / folder for folder in LIBRARY_FOLDERS if (cache / folder).is_dir()),
        firmware=(cache / "usr/share/seabios", cache / "usr/share/qemu") if unpacked else (),
        versions=json.loads((cache / STAMP).read_text()),
    )


def _fill(tree: Path, scratch: Path) -> None:
    names = [_kernel_package(), *ALWAYS, *_missing(UNLESS_INSTALLED)]
    downloads = scratch / "debs"
    downloads.mkdir()
    # As root, apt would drop to a user who may not write into the folder.
    _apt(["apt-get", "-q", "-o", "APT::Sandbox::User=root", "download", *names], DOWNLOAD_TIMEOUT_S, downloads)
    versions: dict[str, str] = {}
    for file in sorted(downloads.glob("*.deb")):
        shown = _apt(["dpkg-deb", "--show", "--showformat=${Package}\t${Version}", str(file)], APT_TIMEOUT_S)
        name, version = shown.split("\t")
        versions[name] = version
        _apt(["dpkg-deb", "--extract", str(file), str(tree)], APT_TIMEOUT_S)
    if absent := [name for name in names if name not in versions]:
        raise UnavailableError(f"apt-get download brought no {', '.join(absent)}")
    (tree / STAMP).write_text(json.dumps(versions, indent=2) + "\n")


def _kernel_package() -> str:
    """The package with the image: the other one only points to the newest."""
    for line in _apt(["apt-cache", "depends", "--important", KERNEL], APT_TIMEOUT_S).splitlines():
        name = line.partition("Depends:")[2].strip()
        if name.startswith("linux-image-"):
            return name
    raise UnavailableError(f"apt knows no {KERNEL}: it must have a Debian archive and its lists; run: apt-get update")


def _missing(wanted: Sequence[str]) -> list[str]:
    """What apt would install to have ``wanted``, with dependencies; nothing is installed."""
    shown = _apt(["apt-get", "--simulate", "--no-install-recommends", "install", *wanted], APT_TIMEOUT_S)
    return [line.split()[1] for line in shown.splitlines() if line.startswith("Inst ")]


def _apt(command: Sequence[str], timeout_s: float, folder: Path | None = None) -> str:
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout_s, cwd=folder, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{' '.join(command[:3])} … was not done after {timeout_s:g} s") from None
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("E:")] or [done.stderr.strip()]
        raise UnavailableError(
            f"{command[0]} cannot get the packages ({errors[0]}); it must reach a Debian archive, and its lists must "
            "be fresh; run: apt-get update"
        )
    return done.stdout


def _found(cache: Path, *patterns: str) -> list[Path]:
    return [path for pattern in patterns for path in sorted(cache.glob(pattern))]


def _only(cache: Path, *patterns: str) -> Path:
    found = _found(cache, *patterns)
    if len(found) != 1:
        raise UnavailableError(
            f"the cache {str(cache)!r} has {len(found)} files like {patterns[0]}, it must have one: remove the folder"
        )
    return found[0]


def _installed(program: str, package: str) -> Path:
    # /usr/sbin is not on the PATH of ordinary users everywhere.
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None:
        raise UnavailableError(
            f"{program} is neither in the cache nor installed: remove the cache, or run: apt-get install {package}"
        )
    return Path(found)
