"""What the signer says of the HSM, to a help desk."""

from __future__ import annotations

from hsm.errors import TryLaterError
from hsm.wire.admin import GroupStatus, MemberStatus, StatusReport
from proxy.commands.explain.hsm import hsm


def _member(name: str, state: str, **more: str) -> MemberStatus:
    return MemberStatus(
        name, state, 0.0, more.get("reason", ""), "/lib/x.so", "1", None, 0, 1, 1, last_error=more.get("error", "")
    )


def test_members_that_are_away_say_why() -> None:
    """Who is in service, and of the others the last error."""
    report = StatusReport(
        [_member("m1", "up"), _member("m2", "down", error="no answer"), _member("m3", "starting")], [], [], [], {},
        GroupStatus(state="degraded", unavailable="cached-only"),
    )  # fmt: skip
    found = hsm(lambda: report)
    assert (found.running, found.state, found.in_service) == (True, "degraded", ("m1",))
    assert found.away == {"m2": "no answer", "m3": "starting"}
    assert found.unavailable == "cached-only"


def test_a_signer_that_is_not_there_is_a_sentence() -> None:
    """While hsmitm does not run the rest of the answer stands."""

    def nobody() -> StatusReport:
        raise TryLaterError("no signer listens")

    assert hsm(nobody).problem == "no signer listens"
