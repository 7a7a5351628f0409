"""The link profile that predicts: read once, named by the digest of its file, the same for all that is scored."""

from __future__ import annotations

import hashlib
import tomllib
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from bufferlab.experiments.errors import UserError
from bufferlab.experiments.runs.busy import Busy, read_busy
from bufferlab.protocol.naming import did_you_mean
from bufferlab.sim.network.link import CALIBRATION, LinkProfile, profile_from, profile_names


@dataclass(frozen=True)
class FrozenProfile:
    """``name`` as it was given, ``digest``: SHA-256 of the file's bytes in hexadecimal digits. ``transport``: of the
    measurements that it was calibrated on, "" where the file does not say. ``busy``: what others took of the
    processors while these were made; None where the file does not say. ``date``: of these, as ``2026-12-01``, or "".
    """

    name: str
    digest: str
    link: LinkProfile
    transport: str = ""
    busy: Busy | None = None
    date: str = ""


def freeze(name: str | Path) -> FrozenProfile:
    """The shipped profile of that name, or the one in that file. Raises UserError for one that cannot be used."""
    given = str(name)
    shipped = profile_names()
    is_file = isinstance(name, Path) or given.endswith(".toml") or "/" in given
    if given in shipped:
        content = (files("bufferlab.sim") / "profiles" / f"{given}.toml").read_bytes()
    elif not is_file:
        raise UserError(
            f"--profile is {given!r}{did_you_mean(given, shipped)}, it must be one of {', '.join(shipped)}, or a "
            f".toml file"
        )
    else:
        try:
            content = Path(given).read_bytes()
        except OSError as error:
            raise UserError(f"--profile is {given!r}, which cannot be read: {error.strerror}") from None
    try:
        fields = tomllib.loads(content.decode())
        link = profile_from(fields, name=given if given in shipped else Path(given).stem)
    except ValueError as error:  # not UTF-8, no TOML, or no good profile
        raise UserError(f"--profile is {given!r}, it must be a good link profile: {error}") from None
    calibration = fields.get(CALIBRATION)
    told = calibration if isinstance(calibration, dict) else {}
    digest = hashlib.sha256(content).hexdigest()
    transport, date = (str(told.get(name, "")) for name in ("transport", "date"))
    return FrozenProfile(given, digest, link, transport=transport, busy=read_busy(told.get("busy")), date=date)
