"""The operator's word for what happens while no member is in service."""

from __future__ import annotations

import pytest

from hsm import unavailable


@pytest.mark.parametrize(
    ("text", "seconds"), [("fail", 0.0), ("cached-only", 0.0), ("queue:0", 0.0), ("queue:2500", 2.5)]
)
def test_a_word_says_how_long_a_request_waits(text: str, seconds: float) -> None:
    """Only `queue:MS` lets a request wait longer than its budget, so many milliseconds."""
    unavailable.check(text)
    assert unavailable.queue_s(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "Fail", "fails", "cached", "queue", "queue:", "queue:-1", "queue:1.5", "queue:123456", "queue:\u0661"]
)
def test_another_word_is_refused_with_those_there_are(text: str) -> None:
    """What is none of the three is repeated beside them."""
    with pytest.raises(ValueError, match=rf"^'{text}' is none; use fail, cached-only or queue:MS$"):
        unavailable.check(text)
