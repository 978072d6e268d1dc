"""What the configuration says of servers, beside the policy: types without services."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct


class Own(Struct, frozen=True):
    """A certificate of ours: files in PEM, with the certificates of its CAs behind it, and its key. They may be one."""

    certificate: Path
    key: Path
