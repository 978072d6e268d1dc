"""The decryption log of a running hsmitm, as whoever reads it would."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema

from addons.records import record
from tests.waiting import wait_until

Told = dict[str, Any]
_VALIDATOR = jsonschema.Draft202012Validator(
    record.schema(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)


class Records:
    """The records in a file, each of which keeps to the schema."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def lines(self) -> list[bytes]:
        """Those that are there now, as they are."""
        lines = self.path.read_bytes().splitlines(keepends=True) if self.path.exists() else []
        return [line for line in lines if line.endswith(b"\n")]

    def all(self) -> list[Told]:
        """Those that are there now, read."""
        found = [json.loads(line) for line in self.lines()]
        for one in found:
            _VALIDATOR.validate(one)
        return found

    def where(self, wanted: Callable[[Told], object]) -> list[Told]:
        """Those that are there now and `wanted`."""
        return [one for one in self.all() if wanted(one)]

    def wait(self, what: str, wanted: Callable[[Told], object]) -> Told:
        """The only one that is `wanted`, once it is there."""
        found = wait_until(lambda: self.where(wanted), f"a record of {what}")
        assert len(found) == 1, found
        return found[0]

    def of_host(self, host: str) -> Told:
        """The only one of a client that wanted this host."""
        return self.wait(host, lambda one: one["destination"].get("address") == host)

    def of(self, client: str | int) -> Told:
        """The only one of the client with this port, or that wanted this host."""
        if isinstance(client, str):
            return self.of_host(client)
        return self.wait(f"port {client}", lambda one: one["source"]["port"] == client)
