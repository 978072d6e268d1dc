"""When a change of a setting takes effect, as its type says it."""

from __future__ import annotations

from typing import Annotated

import pytest
from msgspec import Meta, Struct, field

from hsm.effect import AtReload, AtStart, EachAtStart, SaidElsewhere, effect_of, marked


class Site(Struct, frozen=True):
    """A table in a list."""

    name: Annotated[str, AtReload("[[site]]")] = "shop"
    port: Annotated[int, Meta(ge=1), AtStart("[[site]] port")] = 443


class Settings(Struct, frozen=True):
    """A file."""

    key: Annotated[str, SaidElsewhere()] = "key"
    others: Annotated[dict[str, str], EachAtStart()] = field(default_factory=dict)
    sites: list[Site] = field(default_factory=list)
    default: Site | None = None


class Forgetful(Struct, frozen=True):
    """A table with a field that says nothing."""

    level: str = "info"


def test_each_field_is_found_with_what_it_says() -> None:
    """Fields are found in tables, in lists of tables and in tables that may be absent, with their values."""
    settings = Settings(sites=[Site(), Site("blog", 8443)])
    assert list(marked(settings)) == [
        ("key", SaidElsewhere(), "key"),
        ("others", EachAtStart(), {}),
        ("name", AtReload("[[site]]"), "shop"),
        ("port", AtStart("[[site]] port"), 443),
        ("name", AtReload("[[site]]"), "blog"),
        ("port", AtStart("[[site]] port"), 8443),
    ]
    assert [value for _, _, value in marked(Settings(default=Site("news")))][2:] == ["news", 443]


def test_a_field_that_says_nothing() -> None:
    """A setting that does not say when a change of it takes effect is named: none can be forgotten."""
    with pytest.raises(TypeError, match=r"Forgetful.level does not say when a change of it takes effect"):
        list(marked(Forgetful()))
    assert effect_of(str) is None
