"""An operator's own page: what it may ask for, and what is wrong with it is said when it is read."""

from __future__ import annotations

import pytest

from addons.pages.template import BUILT_IN, MOST_BYTES, PLACEHOLDERS, Template

GOOD = "{{sentence}} {{ id }}"


def test_placeholders_are_those_that_are_there() -> None:
    """The template knows which values it asks for; the built-in one asks for nearly all."""
    assert Template(GOOD + "{{host}}").placeholders == ("sentence", "host", "id")
    assert set(BUILT_IN.placeholders) == set(PLACEHOLDERS) - {"status"}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (GOOD + "{{member}}", r"no placeholder {{ member }}; there are sentence, host"),
        (GOOD + "{{}}", "no placeholder"),
        (GOOD + "{{Host}}", "no placeholder"),
        (GOOD + "{{ host", "not closed"),
        ("{{sentence}}", "{{ id }} is missing"),
        ("{{id}}", "{{ sentence }} is missing"),
        (GOOD + "<script>", "script"),
        (GOOD + "< SCRIPT src=x>", "script"),
        (GOOD + "<img onerror=x>", "script"),
        (GOOD + "<a href='JavaScript:x'>", "script"),
    ],
)
def test_a_template_that_would_not_work_is_refused(text: str, why: str) -> None:
    """What is wrong with a template is said in a sentence."""
    with pytest.raises(ValueError, match=why.replace("{", r"\{").replace("}", r"\}")):
        Template(text)


def test_a_template_has_a_bound() -> None:
    """64 KiB are read, and not one byte more; what is no UTF-8 is refused."""
    assert Template.parse(GOOD.encode().ljust(MOST_BYTES))
    with pytest.raises(ValueError, match="are the most"):
        Template.parse(GOOD.encode().ljust(MOST_BYTES + 1))
    with pytest.raises(ValueError, match="UTF-8"):
        Template.parse(GOOD.encode() + b"\xff")


def test_braces_of_a_style_sheet_are_no_placeholders() -> None:
    """A style sheet in the template stays as it is."""
    filled = Template(GOOD + "<style>p { color: red } @media x { p { top: 0 } }</style>").filled(
        dict.fromkeys(PLACEHOLDERS, "<>")
    )
    assert "@media x { p { top: 0 } }" in filled
    assert filled.startswith("&lt;&gt; &lt;&gt;")
