"""Domains as an operator writes them, and look-ups by name. Pure, but for the public suffix list (`hsm.names`).

"example.com" is that name, ".example.com" it and everything below. Names are A-labels in lower case, made by the one
function that leaves use.
"""

from __future__ import annotations

import functools
import ipaddress
from collections import defaultdict
from collections.abc import Iterable, Iterator

from msgspec import Struct

from addons.policy.settings import Suffix
from hsm import names

_LONGEST = 256
"""Characters of a name that is remembered: clients choose them."""


class Domain(Struct, frozen=True):
    """A name, and whether everything below it is meant, too."""

    name: str
    below: bool

    def __str__(self) -> str:
        return f".{self.name}" if self.below else self.name

    @classmethod
    def parse(cls, written: str | Suffix) -> Domain:
        """From an entry of a list of domains. Raises ValueError."""
        if isinstance(written, Suffix):
            return cls(_checked(written.suffix.removeprefix("."), written.suffix), below=True)
        below = written.startswith(".")
        name = _checked(written.removeprefix("."), written)
        if (below or "." not in name) and names.public_suffixes().is_public(name):
            raise ValueError(
                f"'{written}' is a public suffix, below which everybody has names; write {{ suffix = \".{name}\" }} "
                "where all of them are meant"
            )
        return cls(name, below)

    def covers(self, other: Domain) -> bool:
        """Whether every name of `other` is one of this."""
        if not self.below:
            return self == other
        return other.name == self.name or other.name.endswith(f".{self.name}")


def _checked(name: str, written: str) -> str:
    if _is_address(name):
        raise ValueError(f"'{written}' is an address; write it under networks")
    if "*" in name:
        raise ValueError(f"'{written}' has a wildcard; '.example.com' means example.com and everything below")
    if "/" in name or ":" in name:
        raise ValueError(f"'{written}' is no domain; write the name alone, without scheme, port and path")
    try:
        return names.to_ascii(name)
    except ValueError as error:
        raise ValueError(f"'{written}' is no domain: {error}") from None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_network(name.strip("[]"), strict=False)
    except ValueError:
        return False
    return True


class Name(Struct, frozen=True):
    """A host's name as it is met, with the names above it, itself first; both empty where it is no name."""

    text: str = ""
    above: tuple[str, ...] = ()


_REMEMBERED = 1024
"""Names as they are met: one of 127 labels, as only strangers have, takes 22 kB with those above it."""
_NONE = Name()


def met(text: str) -> Name:
    """What a client calls a host. What no leaf could carry is no name, and no domain has it."""
    return _met(text) if text and len(text) <= _LONGEST else _NONE


@functools.lru_cache(_REMEMBERED)
def _met(text: str) -> Name:
    try:
        name = names.to_ascii(text)
    except ValueError:
        return _NONE
    if ":" in name or name.replace(".", "").isdigit():
        return _NONE
    above, rest = [name], name
    while (dot := rest.find(".")) >= 0:
        rest = rest[dot + 1 :]
        above.append(rest)
    return Name(name, tuple(above))


class DomainTable[Value]:
    """Values by domain."""

    def __init__(self, entries: Iterable[tuple[Domain, Value]]) -> None:
        self._exact: dict[str, list[Value]] = defaultdict(list)
        self._below: dict[str, list[Value]] = defaultdict(list)
        for domain, value in entries:
            (self._below if domain.below else self._exact)[domain.name].append(value)

    def find(self, name: Name) -> Iterator[Value]:
        """The values of each domain that the name is in."""
        yield from self._exact.get(name.text, ())
        for one in name.above:
            yield from self._below.get(one, ())


class Domains:
    """A list of domains, as one question; false where the list is empty."""

    def __init__(self, written: Iterable[str | Suffix]) -> None:
        """Raises ValueError for an entry that is none."""
        self.all = tuple(map(Domain.parse, written))
        self._exact = frozenset(one.name for one in self.all if not one.below)
        self._below = frozenset(one.name for one in self.all if one.below)

    def __bool__(self) -> bool:
        return bool(self.all)

    def __contains__(self, name: Name) -> bool:
        return name.text in self._exact or not self._below.isdisjoint(name.above)
