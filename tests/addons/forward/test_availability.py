"""What a worker knows of the HSM's service, and what that means for leaves that exist."""

from __future__ import annotations

import pytest

from addons.forward.availability import Availability
from hsm.errors import UnavailableError
from hsm.wire.worker import Reported

POLICIES = ["fail", "cached-only", "queue:2000"]


def test_before_the_signer_said_anything() -> None:
    """A worker that was just started serves what it can: nobody told it of an outage."""
    Availability().check_cached()


@pytest.mark.parametrize("policy", POLICIES)
def test_in_service(policy: str) -> None:
    """With a member in service every policy lets leaves from the cache be presented."""
    availability = Availability()
    availability.hear(Reported(in_service=True, unavailable=policy))
    availability.check_cached()


def test_fail() -> None:
    """With "fail" nothing is presented while no member is in service, and the reason names the setting."""
    availability = Availability()
    availability.hear(Reported(in_service=False, unavailable="fail"))
    with pytest.raises(UnavailableError, match=r"^no member of the HSM is in service, and hsm.unavailable is 'fail'$"):
        availability.check_cached()


@pytest.mark.parametrize("policy", ["cached-only", "queue:2000"])
def test_cached_leaves_outlive_an_outage(policy: str) -> None:
    """With "cached-only" and "queue:MS" leaves from the cache go on without any member."""
    availability = Availability()
    availability.hear(Reported(in_service=False, unavailable=policy))
    availability.check_cached()


def test_the_end_of_an_outage() -> None:
    """Once a member is in service again, so are leaves from the cache."""
    availability = Availability()
    availability.hear(Reported(in_service=False, unavailable="fail"))
    availability.hear(Reported(in_service=True, unavailable="fail"))
    availability.check_cached()


@pytest.mark.parametrize("before", POLICIES)
@pytest.mark.parametrize("told", POLICIES)
def test_the_signer_knows_the_policy_of_now(before: str, told: str) -> None:
    """What the operator changed with a reload holds, not what was told before."""
    availability = Availability()
    availability.hear(Reported(in_service=True, unavailable=before))
    availability.hear(Reported(in_service=False, unavailable=told))
    if told == "fail":
        with pytest.raises(UnavailableError):
            availability.check_cached()
    else:
        availability.check_cached()
