"""What every table of hsmitm.toml is made of: strictness about unknown fields, addresses, errors that name a field;
and defaults and bounds, which the settings of the noun own and a table refers to (`default`, `bounds`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import msgspec
from msgspec import Meta, Struct


class Section(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file. A field that is not in the table is an error."""


def default(settings: type[Struct], name: str) -> Any:
    """What holds for the field `name` of `settings` where nothing is said: the table's default, too."""
    found = _field(settings, name).default
    if found is msgspec.NODEFAULT:
        raise TypeError(f"{settings.__name__}.{name} has no default of one value")
    return found


def bounds(settings: type[Struct], name: str) -> Meta:
    """Within what the field `name` of `settings` must be: the table's bounds, too."""
    return next(one for one in get_args(_field(settings, name).type) if isinstance(one, Meta))


def default_ms(settings: type[Struct], name: str) -> int:
    """`default` of a field that has seconds, for a table that has milliseconds."""
    return milliseconds(default(settings, name))


def bounds_ms(settings: type[Struct], name: str) -> Meta:
    """`bounds` of a field that has seconds from `ge` to `le`, for a table that has milliseconds."""
    found = bounds(settings, name)
    assert found.ge is not None
    assert found.le is not None
    return Meta(ge=milliseconds(found.ge), le=milliseconds(found.le))


def milliseconds(seconds: float) -> int:
    """As a table writes it. The way back is division by 1000."""
    return round(seconds * 1000)


def _field(settings: type[Struct], name: str) -> msgspec.structs.FieldInfo:
    return next(one for one in msgspec.structs.fields(settings) if one.name == name)


class Address(Struct, frozen=True):
    """Where to listen. An empty host means every address of the machine."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """From "host:port", "[v6]:port", ":port" or "*:port". Raises ValueError."""
        host, colon, port = text.rpartition(":")
        host = "" if host == "*" else host
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


def named[T](name: str, parse: Callable[[T], object], text: T) -> None:
    """Check `text` with `parse`; its ValueError gets the field's name in front."""
    try:
        parse(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
