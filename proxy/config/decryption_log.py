"""[decryption_log] of hsmitm.toml."""

from __future__ import annotations

from pathlib import Path

from proxy.config.section import Section


class DecryptionLogSection(Section, frozen=True):
    """[decryption_log]: where the record of each connection goes: a file, "stdout", or nowhere if empty."""

    file: str = ""

    def __post_init__(self) -> None:
        if "\0" in self.file or self.file.endswith("/"):
            raise ValueError(f"file: '{self.file}' is no path of a file")

    def path(self, base: Path) -> Path | None:
        """The file, where there is one; relative paths start from `base`."""
        return base / self.file if self.file not in ("", "stdout") else None
