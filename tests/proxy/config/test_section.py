"""A table of the file says no default and no bound of its own where the settings of its noun have one."""

from __future__ import annotations

from typing import Annotated

import pytest
from msgspec import Meta, Struct

from hsm.member.settings import Failover
from proxy.config.hsm import HsmSection, MemberSection
from proxy.config.section import bounds, bounds_ms, default, default_ms


class _Kettle(Struct, kw_only=True):
    cups: Annotated[int, Meta(ge=1, le=8)] = 2
    boil_s: Annotated[float, Meta(ge=0.25, le=90)] = 1.5
    lid: str


def test_a_table_takes_what_the_settings_say() -> None:
    """A number that is changed in the settings is changed in the file's table, also where that counts milliseconds."""
    assert (default(_Kettle, "cups"), bounds(_Kettle, "cups")) == (2, Meta(ge=1, le=8))
    assert (default_ms(_Kettle, "boil_s"), bounds_ms(_Kettle, "boil_s")) == (1500, Meta(ge=250, le=90_000))


def test_what_the_settings_do_not_say_cannot_be_taken() -> None:
    """A table that refers to a default that does not exist is found when hsmitm is imported, by name."""
    with pytest.raises(TypeError, match=r"^_Kettle\.lid has no default of one value$"):
        default(_Kettle, "lid")


def test_milliseconds_come_back_as_the_seconds_they_were() -> None:
    """A configuration that says nothing gives the group exactly the settings' own times."""
    member = MemberSection(name="m1", module="/lib/vendor.so", slot=0, pin=None)  # type: ignore[arg-type]
    assert HsmSection(members=[member]).failover == Failover()
