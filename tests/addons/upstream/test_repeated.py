"""A chain that was completed is verified as if the server had sent it whole: nothing is forgotten over it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from addons.policy.settings import Profile
from addons.upstream.connection import Demand
from addons.upstream.repeated import Roots, complaints, forget
from tests.addons.upstream.faulty import BETWEEN, CA, CAS_AT, NARROW, NOBODY, ROOT, Shown
from tests.addons.upstream.test_judge import HOST, shaken


@pytest.fixture(autouse=True)
def roots(tmp_path: Path) -> Roots:
    """The one root."""
    (tmp_path / "roots.pem").write_bytes(ROOT.pem)
    forget()
    return Roots(file=str(tmp_path / "roots.pem"))


def _again(server: Shown, more: Sequence[x509.Certificate], roots: Roots) -> tuple[list[tuple[int, int]], int]:
    """Codes with depths, and the length of the chain."""
    made = shaken(server, Demand(HOST, Profile(), (), "block"))
    assert any(one.code == 20 for one in made.complaints)
    said, chain = complaints(made.complaints, made.built, more, roots)
    return [(one.code, one.depth) for one in said], len(chain)


def test_a_chain_that_is_completed_is_good(roots: Roots) -> None:
    """What the server forgot was all that was missing."""
    assert _again(BETWEEN.issue(HOST, sent=[]), [BETWEEN.certificate], roots) == ([], 3)


@pytest.mark.parametrize("root", [True, False])
def test_a_chain_to_nobody_is_not(roots: Roots, root: bool) -> None:
    """Whatever a server's certificate links to: the root is the operator's choice."""
    below = CA("below nobody", NOBODY)
    more = [below.certificate, *([NOBODY.certificate] if root else [])]
    codes, _ = _again(below.issue(HOST, sent=[]), more, roots)
    assert codes == [(19, 2) if root else (20, 1)]


def test_what_is_wrong_with_the_servers_own_certificate_stands(roots: Roots) -> None:
    """Its end, its name and its purpose were looked at in the handshake."""
    server = BETWEEN.issue(
        HOST, names=["other.example"], days=-1, usage=ExtendedKeyUsageOID.CLIENT_AUTH, sent=[], issuers_at=CAS_AT
    )
    codes, length = _again(server, [BETWEEN.certificate], roots)
    assert sorted(codes) == [(10, 0), (26, 0), (62, 0)]
    assert length == 3


def test_an_intermediate_has_faults_of_its_own(roots: Roots) -> None:
    """One that has expired, and one that may not issue for the name."""
    old = CA("an old CA", ROOT, days=-1)
    assert _again(old.issue(HOST, sent=[]), [old.certificate], roots) == ([(10, 1)], 3)
    codes, _ = _again(NARROW.issue(HOST, sent=[]), [NARROW.certificate], roots)
    assert codes == [(47, 0)]


@pytest.mark.parametrize("days", [9, -1])
def test_a_forged_signature_is_not_hidden_by_an_end_that_has_passed(roots: Roots, days: int) -> None:
    """OpenSSL looks at an intermediate's end before it looks at the signature below it, and stops there."""
    real = CA("a CA with an end", ROOT, days=days)
    forger = CA(real.name, ROOT)
    codes, _ = _again(forger.issue(HOST, sent=[]), [real.certificate], roots)
    assert 7 in [code for code, _ in codes]
