"""So many at once, and so many a second from there on."""

from __future__ import annotations

from addons.edge.bucket import Bucket


def test_a_burst_is_given_and_then_a_rate() -> None:
    """Who waits gets tokens back at the rate, up to the burst and no further."""
    bucket = Bucket(10, 20)
    assert bucket.take(20, 1000.0)
    assert not bucket.take(1, 1000.0)
    assert bucket.take(9, 1001.0)
    assert not bucket.take(1, 1001.0)
    assert bucket.take(20, 5000.0)
    assert not bucket.take(1, 5000.0)
