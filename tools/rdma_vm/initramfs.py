"""Packs the archive that the kernel starts from: busybox, the modules in the order to load them, /init and settings."""

from __future__ import annotations

import gzip
import lzma
import re
import shlex
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

MODULES = (
    "virtio_pci",
    "9pnet_virtio",
    "9p",
    "overlay",
    "dummy",
    "crc32_generic",  # Soft-RoCE asks for the checksum by name at run time, so no dependency leads to it
    "ib_uverbs",
    "rdma_ucm",
    "rdma_rxe",
)
_DEPENDS = re.compile(rb"(?:\A|\0)depends=([\w,-]*)\0")
_INIT = Path(__file__).with_name("init.sh")


class ModuleMissingError(RuntimeError):
    """The kernel lacks a module."""


def pack(busybox: Path, modules: Path, settings: Mapping[str, str]) -> bytes:
    """The compressed archive. ``settings`` become variables of the shell that runs init.sh."""
    files: dict[str, tuple[bytes, int]] = {
        "bin/busybox": (busybox.read_bytes(), 0o755),
        "init": (_INIT.read_bytes(), 0o755),
        "settings": ("".join(f"{name}={shlex.quote(text)}\n" for name, text in settings.items()).encode(), 0o644),
    }
    order = load_order(modules, MODULES)
    for name, content in order.items():
        files[f"modules/{name}.ko"] = (content, 0o644)
    files["modules/order"] = ("".join(f"{name}\n" for name in order).encode(), 0o644)
    # Level 1: the kernel unpacks it in emulation, and it is read once.
    return gzip.compress(cpio(files), 1, mtime=0)


def load_order(modules: Path, wanted: Iterable[str]) -> dict[str, bytes]:
    """Name and uncompressed content of ``wanted`` and all they depend on, dependencies first.

    Modules say themselves on what they depend; modules.dep is made by a program that runs when a kernel is installed.
    """
    found = {_name(path): path for path in modules.rglob("*.ko*")}
    built_in = {_name(Path(line)) for line in (modules / "modules.builtin").read_text().splitlines()}
    order: dict[str, bytes] = {}

    def add(name: str, needed_by: str) -> None:
        if name in order or (name in built_in and name not in found):
            return
        if name not in found:
            raise ModuleMissingError(f"the kernel {modules.name} has no module {name}, which {needed_by} needs")
        content = _content(found[name])
        match = _DEPENDS.search(content)
        for other in match[1].decode().split(",") if match and match[1] else ():
            add(other.replace("-", "_"), name)
        order[name] = content

    for name in wanted:
        add(name, "the virtual machine")
    return order


def cpio(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    """An archive in the format that Linux unpacks ("newc", kernel documentation early-userspace/buffer-format).

    ``files``: path without leading slash to content and permissions. Folders are added.
    """
    folders = sorted({str(parent) for path in files for parent in Path(path).parents} - {"."})
    entries = [(folder, b"", stat.S_IFDIR | 0o755) for folder in folders]
    entries += [(path, content, stat.S_IFREG | mode) for path, (content, mode) in files.items()]
    entries.append(("TRAILER!!!", b"", 0))
    archive = bytearray()
    for number, (path, content, mode) in enumerate(entries, 1):
        name = path.encode() + b"\0"
        # inode, mode, user, group, links, time, size, device (two), special device (two), length of name, checksum
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name), 0)
        archive += b"070701" + b"".join(b"%08X" % field for field in fields)
        for part in (name, content):
            archive += part
            archive += bytes(-len(archive) % 4)
    return bytes(archive)


def _name(path: Path) -> str:
    return path.name.partition(".ko")[0].replace("-", "_")


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.suffix == ".ko":
        return content
    if path.suffix == ".xz":
        return lzma.decompress(content)
    if path.suffix == ".gz":
        return gzip.decompress(content)
    raise ModuleMissingError(f"the module {path.name} is compressed, it must be .ko, .ko.xz or .ko.gz")
