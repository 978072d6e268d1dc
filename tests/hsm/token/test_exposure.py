"""What an operator reads about a key that is not guarded."""

from __future__ import annotations

import itertools

import pytest

from hsm.token.exposure import exposure


@pytest.mark.parametrize(
    ("told", "text"),
    [
        ((True, False, True), ""),
        ((True, None, True), ""),
        ((False, True, False), "it can leave now, in the clear: CKA_SENSITIVE is false and CKA_EXTRACTABLE is true"),
        ((True, True, False), "it can leave now, wrapped by another key: CKA_EXTRACTABLE is true"),
        ((None, True, None), "it can leave now, wrapped by another key: CKA_EXTRACTABLE is true"),
        (
            (True, False, False),
            "it cannot leave now, but CKA_NEVER_EXTRACTABLE is false, so it was imported, or could have left before",
        ),
        ((False, False, True), "it cannot leave now, but CKA_SENSITIVE is false"),
        ((None, False, True), "it cannot leave now, but CKA_SENSITIVE is not told"),
        (
            (False, False, False),
            "it cannot leave now, but CKA_NEVER_EXTRACTABLE is false, so it was imported, or could have left "
            "before and CKA_SENSITIVE is false",
        ),
        ((True, False, None), "it cannot leave now, but whether it ever could is not told: CKA_NEVER_EXTRACTABLE"),
        ((True, None, None), "whether it can leave is not told: CKA_EXTRACTABLE"),
    ],
)
def test_the_attribute_that_is_wrong_is_named(told: tuple[bool | None, bool | None, bool | None], text: str) -> None:
    """Which attribute is not as it should be, and whether the key can leave now."""
    assert exposure(*told) == text


def test_only_a_key_that_never_could_leave_is_quiet() -> None:
    """Whatever a token tells or does not: nothing is said of a key that is sensitive and never was extractable."""
    quiet = [told for told in itertools.product((True, False, None), repeat=3) if not exposure(*told)]
    assert quiet == [(True, False, True), (True, None, True)]
