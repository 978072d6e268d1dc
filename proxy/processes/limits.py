"""What the kernel allows a process of ours, and what we give up: descriptors, core files.

A soft limit of 1,024 descriptors, which is usual, carries about 500 connections in a process.
"""

from __future__ import annotations

import resource

RESERVED = 64
"""Descriptors of a worker that carry no client: libraries, logs, the signer, listeners."""
PER_CONNECTION = 2
"""A client's socket and its server's."""


def no_core() -> None:
    """A crash writes no core file: secrets and decrypted traffic would be in it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def raise_descriptors() -> int:
    """Take all descriptors that we may have; how many."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def connections() -> int:
    """How many proxied connections a worker can carry when it has taken all descriptors that it may have."""
    return max(0, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - RESERVED) // PER_CONNECTION
