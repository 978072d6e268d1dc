"""A whole hsmitm with one worker whose policy bypasses everything, with the probe that it has by default."""

from __future__ import annotations

from pathlib import Path

from bench.rig.system import System

_RULE = """
[[policy.rules]]
name = "everything"
to = { everything = true }
action = "bypass"
"""


class BypassSystem(System):
    """hsmitm. Use it as an async context manager; `proxy` is then its address."""

    def __init__(self, directory: Path, *, roots: Path, seed: int) -> None:
        """`roots` is the file with the CA that the origin is verified with."""
        super().__init__(directory, 1, key_type="p256", workers=1, sessions=1, seed=seed)
        self._roots = roots

    async def prepare(self) -> None:
        """As System, with our own roots and one rule."""
        await super().prepare()
        (self.directory / "roots.pem").write_bytes(self._roots.read_bytes())
        with (self.directory / "hsmitm.toml").open("a") as file:
            file.write(_RULE)
