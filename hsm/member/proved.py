"""What one life proved: of each key the schemes that it makes, those that it does not, and which of them are doubted.
No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from typing import NamedTuple

from hsm.member.key import Key


class Lack(NamedTuple):
    """Why a member does not make a scheme. `passing`: it may have been a moment's failure."""

    why: str
    passing: bool = False


class Proved:
    """The proofs of a life, kept up to date. Keys and schemes are given by their names."""

    def __init__(self) -> None:
        self.schemes: dict[str, frozenset[str]] = {}
        """Of each key that is proved, the schemes that are made with it: one at least."""
        self._lacking: dict[str, dict[str, Lack]] = {}
        self._doubted: set[tuple[str, str]] = set()

    def take(self, key: str, made: Set[str], lacking: Mapping[str, Lack]) -> None:
        """`key` is proved by the schemes `made`."""
        self.schemes[key], self._lacking[key] = frozenset(made), dict(lacking)

    def drop(self, key: str) -> None:
        """`key` is not served any more."""
        self.schemes.pop(key, None)
        self._lacking.pop(key, None)
        self._doubted -= {pair for pair in self._doubted if pair[0] == key}

    def lose(self, key: str, scheme: str, why: str) -> bool:
        """`scheme` is not made with `key` any more. Whether there is another one; without, the key stays as it was."""
        self._doubted.discard((key, scheme))
        left = self.schemes.get(key, frozenset()) - {scheme}
        if left:
            self.schemes[key] = left
            self._lacking.setdefault(key, {})[scheme] = Lack(why, passing=True)
        return bool(left)

    def regain(self, key: str, scheme: str) -> None:
        """`scheme` is made with `key` again."""
        if key in self.schemes:
            self.schemes[key] |= {scheme}
            self._lacking[key].pop(scheme, None)

    def lacks(self, key: str) -> dict[str, str]:
        """The schemes that are not made with a key that is proved, as far as they were asked for; and why not."""
        return {scheme: lack.why for scheme, lack in self._lacking.get(key, {}).items()}

    def passing(self) -> list[tuple[str, str]]:
        """Keys with schemes that are not made with them and that may be, some time later."""
        return [(key, one) for key, lacking in self._lacking.items() for one, lack in lacking.items() if lack.passing]

    def doubt(self, key: str, scheme: str) -> None:
        """A request was refused a scheme that was proved: the next test is its, unless one has told already."""
        if scheme in self.schemes.get(key, ()):
            self._doubted.add((key, scheme))

    def doubts(self, key: str, scheme: str) -> bool:
        """Whether a request was refused the scheme, and no test has told yet."""
        return (key, scheme) in self._doubted

    def trust(self, key: str, scheme: str) -> None:
        """A test was good: nothing is doubted."""
        self._doubted.discard((key, scheme))

    def next(self, keys: Mapping[str, Key], number: int) -> tuple[str, str]:
        """The key and the scheme of test `number`, of a life that proved a key: what is doubted, else each in turn, and
        another key each time."""
        if self._doubted:
            return min(self._doubted)
        pairs = sorted(
            (place, key, scheme.name)
            for key, made in self.schemes.items()
            for place, scheme in enumerate(one for one in keys[key].schemes if one.name in made)
        )
        _, key, scheme = pairs[number % len(pairs)]
        return key, scheme
