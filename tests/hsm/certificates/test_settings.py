"""What an operator may say of leaves."""

from __future__ import annotations

from hsm.certificates.settings import BACKDATED, MAX_VALIDITY, LeafProfile
from tests.hsm.certificates.software import DAY


def test_the_limits_agree() -> None:
    """Back-dating and the longest profile fill the limit, which is under the 47 days that browsers announced."""
    assert BACKDATED + LeafProfile(days=45).ahead == MAX_VALIDITY < 47 * DAY
