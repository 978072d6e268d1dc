"""Profiles as they may be written: what a type cannot say of a field. Pure."""

from __future__ import annotations

import re

from addons.policy.settings import NAME, NAME_WORDS, Profile
from addons.tls import protocol

_VERSIONS = re.compile(r"1\.([0-3])(?:-1\.([0-3]))?")
_CERTIFICATE = re.compile(r"block|without|bypass|present:.+")


def check(name: str, profile: Profile) -> None:
    """Raises ValueError with the table and the field in front."""
    where = f"profiles.{name}"
    if not re.fullmatch(NAME, name):
        raise ValueError(f"profiles: '{name}': {NAME_WORDS}")
    versions = _VERSIONS.fullmatch(profile.versions)
    if not versions or (versions[2] and versions[1] > versions[2]):
        raise ValueError(f"{where}.versions: '{profile.versions}' are none; write '1.2-1.3', the older one first")
    try:
        protocol.suites(profile.suites)
    except ValueError as error:
        raise ValueError(f"{where}.suites: {error}") from None
    if not _CERTIFICATE.fullmatch(profile.client_certificate):
        raise ValueError(
            f"{where}.client_certificate: '{profile.client_certificate}' is none; write block, without, bypass, or "
            "present:NAME"
        )
