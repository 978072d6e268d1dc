"""What `hsmitm check` says of the schemes of keys, of groups on real partitions."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hsm.member.key import inbound_key
from hsm.uri import KeyURI
from proxy.commands.check_schemes import check_schemes
from proxy.commands.findings import Findings
from tests.hsm.group.test_group_schemes import grouped, unequal
from tests.hsm.members import copy_of, make_group
from tests.hsm.restricted import private_key, put_key
from tests.softhsm import Store

__all__ = ["unequal"]

REFUSED = "it did not sign a challenge: CKR_MECHANISM_INVALID (0x70) while signing"
NO_PSS = f"WARN   member m1: pkcs11:object=shop;type=private makes no rsa_pss_rsae_sha256, 384 and 512: {REFUSED}"
NO_PKCS1 = f"WARN   member m1: pkcs11:object=shop;type=private makes no rsa_pkcs1_sha256, 384 and 512: {REFUSED}"
NO_13 = "key of shop: TLS 1.3 needs RSA-PSS, which this token does not make: use an EC key"
NO_OLD = (
    "WARN   key of shop: TLS 1.2 clients that do not know RSA-PSS are refused: this token does not make PKCS#1 v1.5 "
    "signatures with it"
)


def config_with(*versions: tuple[str, str]) -> Any:
    """A configuration with listeners for these versions, each with the site."""
    site = SimpleNamespace(names=["shop"])
    listeners = [
        SimpleNamespace(minimum_version=oldest, maximum_version=newest, sites=[site]) for oldest, newest in versions
    ]
    return SimpleNamespace(file=SimpleNamespace(inbound=listeners))


BOTH, ONLY_13, ONLY_12 = ("TLS1.2", "TLS1.3"), ("TLS1.3", "TLS1.3"), ("TLS1.2", "TLS1.2")


@pytest.mark.parametrize(
    ("members", "versions", "said"),
    [
        (["all"], [BOTH], []),
        (["pkcs1"], [BOTH], [NO_PSS, f"WARN   {NO_13}; with this one clients get TLS 1.2"]),
        (["pkcs1"], [ONLY_12], [NO_PSS]),
        (
            ["pkcs1"],
            [BOTH, ONLY_13],
            [NO_PSS, f"WRONG  {NO_13}, or set minimum_version to TLS1.2: no client is served as it is"],
        ),
        (["pss"], [BOTH], [NO_PKCS1, NO_OLD]),
        (["pss"], [ONLY_13], [NO_PKCS1]),
        (
            ["pkcs1", "all"],
            [BOTH],
            [
                NO_PSS,
                "WARN   key of shop: RSA-PSS, which TLS 1.3 needs, is made by m2 alone: while that is away new clients "
                "get TLS 1.2",
            ],
        ),
        (
            ["pkcs1", "pkcs1"],
            [BOTH],
            [
                NO_PSS,
                NO_PSS.replace("m1", "m2"),
                f"WARN   {NO_13.replace('this token does not make', 'no token of these members makes')}; with this one "
                "clients get TLS 1.2",
            ],
        ),
    ],
)
async def test_what_a_sites_key_means_to_clients(
    unequal: dict[str, Store], members: list[str], versions: list[tuple[str, str]], said: list[str]
) -> None:
    """An operator reads what no token makes, and what that means to clients of the versions that the site speaks."""
    lines: list[str] = []
    findings = Findings(lines.append)
    async with grouped(unequal, *members) as group:
        check_schemes(config_with(*versions), group, findings)
    assert lines == said
    assert findings.right is not any(line.startswith("WRONG") for line in said)


async def test_what_a_cas_key_means_to_clients(unequal: dict[str, Store]) -> None:
    """A CA that has to sign in RSA-PSS is told of; one whose token hashes itself is as good as any."""
    for name, said in {
        "messages": [],
        "pss": [
            NO_PKCS1,
            "WARN   forward-shop key: leaves are signed in rsa_pss_rsae_sha256, because this token does not make "
            "rsa_pkcs1_sha256; TLS 1.2 clients that do not know RSA-PSS refuse them: an EC key suits all",
        ],
    }.items():
        lines: list[str] = []
        async with grouped(unequal, name, inbound=False) as group:
            check_schemes(config_with(), group, Findings(lines.append))
        assert lines == said


async def test_a_site_with_a_better_key_beside_it(unequal: dict[str, Store], tmp_path: Path) -> None:
    """A site whose other key signs TLS 1.3 serves it, and nobody is told to get one."""
    store = copy_of(unequal["pkcs1"], tmp_path / "copy")
    public = put_key(store, "shop-ec", "p256")
    other = inbound_key(KeyURI(object="shop-ec"), public, ("shop",))
    rsa_key = inbound_key(KeyURI(object="shop"), private_key("rsa").public_key(), ("shop",))
    lines: list[str] = []
    async with make_group([store], keys={one.name: one for one in (rsa_key, other)}) as group:
        check_schemes(config_with(BOTH, ONLY_13), group, Findings(lines.append))
    assert lines == [NO_PSS]
