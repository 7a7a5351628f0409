"""From what ``doctor`` found to commands that mend it. A command is shown only where it mends that cause."""

from __future__ import annotations

import os
import platform
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bufferlab.experiments.installing import REAL, REQUIREMENTS

SYSTEM_LIBRARIES = {
    "libibverbs.so.1": "libibverbs1",
    "librdmacm.so.1": "librdmacm1",
    "libnuma.so.1": "libnuma1",
    "liburing.so.2": "liburing2",
    "libcurl.so.4": "libcurl4",
}
"""What Mooncake loads, also for tcp: shared library to Debian package."""

OTHER_LIBRARIES = {
    "libgomp.so.1": "libgomp1",
    "libstdc++.so.6": "libstdc++6",
    "libgcc_s.so.1": "libgcc-s1",
    "libssl.so.3": "libssl3",
    "libcrypto.so.3": "libssl3",
    "libz.so.1": "zlib1g",
    "libnl-3.so.200": "libnl-3-200",
    "libnl-route-3.so.200": "libnl-route-3-200",
}
OTHER_NAMES = {
    "libibverbs1": "libibverbs",
    "librdmacm1": "librdmacm",
    "libnuma1": "numactl-libs",
    "liburing2": "liburing",
    "libcurl4": "libcurl",
    "libgomp1": "libgomp",
    "libstdc++6": "libstdc++",
    "libgcc-s1": "libgcc",
    "libssl3": "openssl-libs",
    "zlib1g": "zlib",
    "libnl-3-200": "libnl3",
    "libnl-route-3-200": "libnl3",
}
"""The same packages where dnf installs them."""

MOONCAKE_REQUIREMENT = REQUIREMENTS["mooncake"]
REAL_REQUIREMENTS = {name: REQUIREMENTS[name] for name in REAL if name != "mooncake"}

WITHOUT_MOONCAKE = "without Mooncake, --transport socket (real.transport) measures over this package's own sockets"
WHEELS_ARE_FOR = ("Linux", ("x86_64", "amd64"))
"""The system and the machines that Mooncake's wheels are built for."""

_NO_LIBRARY = re.compile(r"(lib[\w+.-]+\.so[\d.]*): cannot open shared object file")
_OLD_LIBC = re.compile(r"version [`'](GLIBC_[\d.]+)' not found")
_OLD_LIBSTDCXX = re.compile(r"(\S+): version [`']((?:GLIBCXX|CXXABI)_[\d.]+)' not found")
_CUDA_LIBRARY = re.compile(r"lib(cuda|cudart|nvidia|nv\w*|cublas\w*|cufile)\b")
_TORN = re.compile(r"No module named '?mooncake|undefined symbol|invalid ELF header|file too short|wrong ELF class")
_ILLEGAL = "SIGILL"

Report = dict[str, Any]


def mend_commands(found: Report) -> list[str]:
    """Lines to type, in order, so that the real backend works; one that begins with # says what no command does."""
    return list(_lines(found))


def _lines(found: Report) -> Iterator[str]:
    imports = found["mooncake_imports"]
    reason = "" if imports["works"] else str(imports["reason"])
    pip = f"{shlex.quote(sys.executable)} -m pip"
    if variable := imports.get("variable"):
        yield f"unset {variable}"
        return
    if stranger := imports.get("stranger"):
        yield f"# {stranger} stands in the way of Mooncake's own modules: rename or remove it"
        return
    wheels = found["mooncake_wheels"]
    here = (platform.system(), platform.machine())
    if reason and not wheels and (here[0] != WHEELS_ARE_FOR[0] or here[1].lower() not in WHEELS_ARE_FOR[1]):
        if missing := [REAL_REQUIREMENTS[name] for name in found["absent"]]:
            yield f"{pip} install {' '.join(shlex.quote(one) for one in missing)}"
        yield f"# Mooncake's wheels are for Linux on x86-64, this is {' on '.join(here)}: {WITHOUT_MOONCAKE}"
        return
    absent = [name for name in _missing_libraries(found, reason) if not _CUDA_LIBRARY.match(name)]
    if absent:
        yield from _install(absent)
    if old := _OLD_LIBC.search(reason):
        yield f"# {old[1]} comes with a newer system (Debian 12, Ubuntu 22.04, RHEL 9): use one, or a container of one"
        return
    if old := _OLD_LIBSTDCXX.search(reason):
        yield f"# {old[1]} is older than the wheel wants ({old[2]}): no command helps while it is found first"
        yield from _install(["libstdc++.so.6"])
        return
    if _ILLEGAL in reason:
        yield "# the wheel is built for newer processors: use another machine"
        return
    requirements = [REAL_REQUIREMENTS[name] for name in found["absent"]]
    wrong_kind = bool(_CUDA_LIBRARY.match(library := _named_library(reason))) and len(wheels) == 1
    if found.get("mooncake_needed", True) and (len(wheels) > 1 or wrong_kind):
        # Wheels install the same files, so whichever came last has broken the others; one for GPUs needs their driver.
        yield f"{pip} uninstall -y {' '.join(wheels)}"
    if found.get("mooncake_needed", True) and (len(wheels) != 1 or wrong_kind):
        requirements.append(MOONCAKE_REQUIREMENT)
    elif _TORN.search(reason) and not absent:
        yield f"{pip} install --force-reinstall --no-deps {next(iter(wheels))}"
    elif library and library not in SYSTEM_LIBRARIES and library not in OTHER_LIBRARIES:
        yield f"# install the package of your system that has {library}"
    if requirements:
        yield f"{pip} install {' '.join(shlex.quote(one) for one in requirements)}"
    for name in found.get("broken", {}):
        yield f"{pip} install --force-reinstall {shlex.quote(REAL_REQUIREMENTS[name])}"


def _missing_libraries(found: Report, reason: str) -> list[str]:
    packages = {package: library for library, package in SYSTEM_LIBRARIES.items()}
    missing = [packages[package] for package, loads in found["system_libraries"].items() if not loads]
    named = _named_library(reason)
    if named in OTHER_LIBRARIES or (named in SYSTEM_LIBRARIES and named not in missing):
        missing.append(named)
    return missing


def _named_library(reason: str) -> str:
    found = _NO_LIBRARY.search(reason)
    return found[1] if found else ""


def _install(libraries: list[str]) -> Iterator[str]:
    packages = list(dict.fromkeys((SYSTEM_LIBRARIES | OTHER_LIBRARIES)[library] for library in libraries))
    prefix = "" if os.geteuid() == 0 else "sudo "
    if shutil.which("apt-get"):
        if not any(Path("/var/lib/apt/lists").glob("*_Packages*")):  # as in a fresh container
            yield f"{prefix}apt-get update"
        yield f"{prefix}apt-get install -y --no-install-recommends {' '.join(packages)}"
    elif shutil.which("dnf"):
        yield f"{prefix}dnf install -y {' '.join(dict.fromkeys(OTHER_NAMES[package] for package in packages))}"
    else:
        yield f"# install with your package manager what Debian calls {' '.join(packages)}"
