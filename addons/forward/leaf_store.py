"""Leaves by what they are for, bounded: those that were used again stay, whatever comes new. No I/O, no clock.

What nobody has asked for twice is on probation, and the oldest of that makes room. What is used again is protected;
four fifths of all places are for such. Where those are full, of some that have not been looked at for the longest time
the one that was used least must have been used less often than the newcomer, or it stays, with half of its count. What
was forgotten is remembered for a while by its count alone. So neither ten thousand names that are asked for once push
out what an office visits all day, nor, by far, as many that are asked for twice.

A segmented LRU with the ghosts of ARC and Redis' sampling for the least used, as published. TinyLFU was tried and does
worse here: its counts fade with each visit, so who makes up names twenty times as fast as others visit makes them fade.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from itertools import islice

from msgspec import Struct

_LOOKED_AT = 8
"""Protected entries that a newcomer is compared with the least used of."""


class _Place[V](Struct):
    value: V
    uses: int = 0


class LeafStore[K: Hashable, V]:
    """A dictionary of at most `limit` entries."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._most_protected = limit * 4 // 5
        self._probation: OrderedDict[K, _Place[V]] = OrderedDict()
        self._protected: OrderedDict[K, _Place[V]] = OrderedDict()
        self._ghosts: OrderedDict[int, int] = OrderedDict()  # uses by the key's hash

    def __len__(self) -> int:
        return len(self._probation) + len(self._protected)

    def clear(self) -> None:
        """Forget all that is kept."""
        self._probation.clear()
        self._protected.clear()
        self._ghosts.clear()

    def look(self, key: K) -> V | None:
        """What is here for `key`; looking is no use of it."""
        place = self._protected.get(key) or self._probation.get(key)
        return place.value if place is not None else None

    def use(self, key: K) -> None:
        """`key`, which is here, is used again."""
        place = self._protected.get(key)
        if place is not None:
            place.uses += 1
            self._protected.move_to_end(key)
            return
        place = self._probation[key]
        place.uses += 1
        self._probation.move_to_end(key)
        self._protect(key, place)

    def keep(self, key: K, value: V) -> Iterator[K]:
        """Keep `value` for `key`, in place of an older one; what is forgotten for it, as that is walked through."""
        place = self._protected.get(key) or self._probation.get(key)
        if place is not None:
            place.value = value
        else:
            seen = self._ghosts.pop(hash(key), None)
            place = self._probation[key] = _Place(value, 0 if seen is None else seen + 1)
            if place.uses:
                self._protect(key, place)
        while len(self) > self._limit:
            yield self._forget()

    def _forget(self) -> K:
        key, place = self._probation.popitem(last=False)
        self._ghosts[hash(key)] = place.uses
        if len(self._ghosts) > self._limit:
            self._ghosts.popitem(last=False)
        return key

    def _protect(self, key: K, newcomer: _Place[V]) -> None:
        """Give what is on probation a protected place, if one is free or can be made free."""
        if len(self._protected) >= self._most_protected:
            looked_at = list(islice(self._protected.items(), _LOOKED_AT))
            if not looked_at:
                return
            for one, _ in looked_at:
                self._protected.move_to_end(one)
            if newcomer.uses > 1:  # counts fade, but not because of names that were asked for once or twice
                strongest = max((place for _, place in looked_at), key=lambda place: place.uses)
                strongest.uses = max(0, strongest.uses - newcomer.uses)
            weakest, its_place = min(looked_at, key=lambda item: item[1].uses)
            if newcomer.uses <= its_place.uses:
                its_place.uses //= 2
                return
            self._probation[weakest] = self._protected.pop(weakest)
        self._protected[key] = self._probation.pop(key)
