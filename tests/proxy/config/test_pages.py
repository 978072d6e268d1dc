"""[pages]: an operator's own page is read, or what is wrong with it is said in a sentence that names the file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from addons.pages.template import BUILT_IN, MOST_BYTES
from hsm.errors import MisconfiguredError
from proxy.config.pages import PagesSection

GOOD = "<p>{{ sentence }} {{ id }} {{ contact }}</p>"


def test_without_a_template_the_built_in_one_is_shown(tmp_path: Path) -> None:
    """Nobody has to write a page."""
    assert PagesSection().html(tmp_path) is BUILT_IN


def test_a_path_starts_from_the_configurations_directory(tmp_path: Path) -> None:
    """The template stands beside hsmitm.toml."""
    (tmp_path / "page.html").write_text(GOOD)
    assert PagesSection(template="page.html").html(tmp_path).placeholders == ("sentence", "id", "contact")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "there is no file"),
        ("{{ member }}", "there is no placeholder {{ member }}"),
        ("{{ id }}", "{{ sentence }} is missing"),
        (GOOD + "x" * MOST_BYTES, "65,536 are the most"),
        (GOOD + "<script>", "pages run none"),
    ],
)
def test_what_is_wrong_with_a_template_is_said(tmp_path: Path, content: str | None, why: str) -> None:
    """At the start and in check alike, with the field and the file."""
    path = tmp_path / "page.html"
    if content is not None:
        path.write_text(content)
    section = PagesSection(template="page.html")
    with pytest.raises(MisconfiguredError) as caught:
        section.html(tmp_path)
    assert str(caught.value).startswith("pages.template: ")
    assert str(path) in str(caught.value)
    assert why in str(caught.value)


def test_a_directory_is_no_template(tmp_path: Path) -> None:
    """What cannot be read is said, without a traceback."""
    with pytest.raises(MisconfiguredError, match=r"pages\.template: cannot read"):
        PagesSection(template=".").html(tmp_path)


@pytest.mark.parametrize("contact", ["two\nlines", "a\x1b[31m", "x" * 201])
def test_a_contact_is_one_line(contact: str) -> None:
    """What is shown to everybody has no control characters and an end."""
    with pytest.raises(msgspec.ValidationError, match="contact"):
        msgspec.convert({"contact": contact}, PagesSection)
