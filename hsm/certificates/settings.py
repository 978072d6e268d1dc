"""What an operator may say of leaves, and its bounds."""

from __future__ import annotations

import datetime as dt
from typing import Annotated

from msgspec import Meta, Struct

BACKDATED = dt.timedelta(days=1)
"""Clients whose clock is late must accept a fresh leaf; a day covers time zones set wrong."""

MAX_VALIDITY = dt.timedelta(days=46)
"""From notBefore to notAfter. The strictest limit that browsers have announced is 47 days (CA/Browser Forum ballot
SC-081, from March 2029); it binds public CAs, and a leaf within it is safe from whoever extends it to private ones."""


class LeafProfile(Struct, frozen=True, kw_only=True):
    """What the operator may choose of a leaf.

    A week by default: one that is stolen with its worker's key is of no use soon; a cache renews it after four fifths
    of that, so a day without the HSM costs known hosts nothing.
    """

    days: Annotated[int, Meta(ge=1, le=(MAX_VALIDITY - BACKDATED).days)] = 7

    @property
    def ahead(self) -> dt.timedelta:
        """From now to notAfter."""
        return dt.timedelta(days=self.days)
