"""The two CAs must be strangers: a client that trusts the one must not believe the other."""

from __future__ import annotations

from typing import Any

import pytest
from cryptography import x509

from hsm.certificates.issuer import Issuer, refuse_trusted
from hsm.errors import MisconfiguredError
from tests.hsm.certificates.software import NOW, ca_extensions, certified, named, own_ca, private_key

ROOT, OTHER_ROOT = named("Root"), named("Other root")


def below(subject: str, kind: str, number: int, by: tuple[x509.Name, Any]) -> x509.Certificate:
    """A CA that another party's CA made."""
    return certified(named(subject), private_key(kind, number), ca_extensions(), by=by)


def root(name: x509.Name, number: int) -> x509.Certificate:
    """Another party's self-signed CA."""
    return certified(name, private_key("p256", number), ca_extensions())


ROOT_KEY, OTHER_KEY = private_key("p256", 70), private_key("p256", 71)
TRUST = below("Trust", "p256", 72, (ROOT, ROOT_KEY))
UNDER_TRUST = below("Under trust", "p256", 73, (TRUST.subject, private_key("p256", 72)))
UNDER_ROOT = below("Under root", "p256", 74, (ROOT, ROOT_KEY))
ELSEWHERE = below("Elsewhere", "p256", 75, (OTHER_ROOT, OTHER_KEY))
SAME_KEY = certified(named("Another name"), private_key("p256", 72), ca_extensions())

COMMON: dict[str, tuple[list[x509.Certificate], list[x509.Certificate]]] = {
    "the same file": ([own_ca("p256")], [own_ca("p256")]),
    "the same key under another name": ([TRUST], [SAME_KEY]),
    "untrust issued by trust": ([TRUST], [UNDER_TRUST, TRUST]),
    "untrust issued by trust, which its file leaves out": ([TRUST], [UNDER_TRUST]),
    "trust issued by untrust": ([UNDER_TRUST], [TRUST]),
    "one root above both": ([TRUST, root(ROOT, 70)], [UNDER_ROOT, root(ROOT, 70)]),
    "one root above both, which the files leave out": ([TRUST], [UNDER_ROOT]),
    "untrust is the root of trust": ([TRUST, root(ROOT, 70)], [root(ROOT, 70)]),
    "untrust is the root of trust, which its file leaves out": ([TRUST], [root(ROOT, 70)]),
}


@pytest.mark.parametrize("case", COMMON)
def test_what_they_have_in_common_is_refused(case: str) -> None:
    """A server that did not verify would be believed: the sentence says why, and what to do."""
    trust, untrust = (Issuer(chain, NOW) for chain in COMMON[case])
    with pytest.raises(MisconfiguredError, match=r"Give forward\.untrust a self-signed CA"):
        refuse_trusted(trust, untrust)


@pytest.mark.parametrize("untrust", [[own_ca("p384")], [ELSEWHERE], [ELSEWHERE, root(OTHER_ROOT, 71)]])
@pytest.mark.parametrize("trust", [[own_ca("p256")], [TRUST], [TRUST, root(ROOT, 70)]])
def test_strangers_are_taken(trust: list[x509.Certificate], untrust: list[x509.Certificate]) -> None:
    """Two CAs of their own, or below roots of their own, are what is wanted."""
    refuse_trusted(Issuer(trust, NOW), Issuer(untrust, NOW))
