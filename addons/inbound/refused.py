"""Why a client of our sites gets an alert before or instead of a handshake. No I/O."""

from __future__ import annotations

from typing import Literal

from addons.records.facts import ErrorClass

Refused = Literal["blocked", "no-tls", "malformed", "no-site", "no-key", "old-version", "too-slow"]
CLASSES: dict[Refused, ErrorClass] = {
    "blocked": "blocked-by-policy",
    "no-tls": "not-tls",
    "malformed": "malformed-hello",
    "no-site": "host-mismatch",
    "no-key": "hsm-unavailable",
    "old-version": "no-common-version",
    "too-slow": "too-slow",
}
"""What the decryption log calls it."""
