"""What every table of hsmitm.toml is made of: strictness about unknown fields, addresses, errors that name a field."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file. A field that is not in the table is an error."""


class Address(Struct, frozen=True):
    """Where to listen. An empty host means every address of the machine."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """From "host:port", "[v6]:port" or ":port". Raises ValueError."""
        host, colon, port = text.rpartition(":")
        if not colon or not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ValueError(f"'{text}' is no address; write host:port, for example 127.0.0.1:8080")
        if (
            host in ("[]", "[")
            or host.startswith("[[")
            or host.startswith("[") != host.endswith("]")
            or (":" in host and not host.startswith("["))
        ):
            raise ValueError(f"'{text}': write an IPv6 address in brackets, for example [::1]:8080")
        return cls(host.strip("[]"), int(port))


def named(name: str, parse: Callable[[str], object], text: str) -> None:
    """Check `text` with `parse`; its ValueError gets the field's name in front."""
    try:
        parse(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
