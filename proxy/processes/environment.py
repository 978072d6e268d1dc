"""What a process that meets the network gets of our own environment: an allow list.

The rest may hold what a PIN command needs (a vault's token), or a member's PIN. A list of what is forbidden would have
to know each such name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_NAMES = frozenset(
    (
        "PATH", "HOME", "TMPDIR", "TZ", "TZDIR", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "SSL_CERT_FILE", "SSL_CERT_DIR",
        "RES_OPTIONS", "LOCALDOMAIN", "HSMITM_DEBUG",
    )
)  # fmt: skip
_BEGINNINGS = ("LC_", "PYTHON")
"""PYTHONPATH and its like say where our own code is."""
_SERVICE_MANAGER = frozenset(("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "FDSTORE"))
"""What systemd says to the process that it has started, and to no child of it."""


def of_worker(ours: Mapping[str, str], named: Iterable[str], secret: Iterable[str]) -> dict[str, str]:
    """For a worker, or another process without secrets. `named` are the operator's own (`[run] worker_environment`);
    what is `secret` stays here, whatever it is called."""
    wanted, withheld = _NAMES | frozenset(named), frozenset(secret)
    return {
        name: value
        for name, value in ours.items()
        if (name in wanted or name.startswith(_BEGINNINGS)) and name not in withheld
    }


def of_signer(ours: Mapping[str, str]) -> dict[str, str]:
    """For the signer: all that PIN sources may need."""
    return {name: value for name, value in ours.items() if name not in _SERVICE_MANAGER}
