"""A whole hsmitm for the forward measurement: one member, and an origin that is not Python's."""

from __future__ import annotations

from pathlib import Path

from bench.rig.system import System


class ForwardSystem(System):
    """hsmitm with so many workers. Use it as an async context manager; `proxy` is then its address."""

    def __init__(self, directory: Path, *, roots: Path, workers: int, sessions: int, seed: int) -> None:
        """`roots` is the file with the CA that the origin is verified with."""
        super().__init__(directory, 1, key_type="rsa-2048", workers=workers, sessions=sessions, seed=seed)
        self._roots = roots

    async def prepare(self) -> None:
        """As System, with our own roots."""
        await super().prepare()
        (self.directory / "roots.pem").write_bytes(self._roots.read_bytes())
