"""Mechanisms that a token lists and forbids, or does not list, or lists as not for signing: FIPS modes, cloud HSMs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from msgspec import structs

from bench.rig.quirks_module import QuirksModule
from hsm.errors import HsmitmError, UnavailableError
from hsm.member.key import DECRYPTION, Key, inbound_key
from hsm.member.settings import Failover, MemberSettings
from hsm.schemes import SCHEMES
from hsm.uri import KeyURI
from tests.cas import public_key
from tests.hsm.members import MESSAGE, copy_of, make_group
from tests.hsm.restricted import PKCS1, PSS
from tests.softhsm import MODULE, Store, in_s
from tests.waiting import until

EC = SCHEMES["ecdsa_secp256r1_sha256"]
ALL = [*PKCS1, *PSS]
RSA_PKCS, RSA_PSS, SHA256_RSA_PKCS, SHA256_RSA_PSS = 0x1, 0xD, 0x40, 0x43
EVERYWHERE = [(function, code) for function in ("C_SignInit", "C_Sign") for code in (0x68, 0x70, 0x71, 0x200)]


def quirky(store: Store, directory: Path, *lines: str) -> tuple[QuirksModule, MemberSettings]:
    """The partition behind a module with these quirks."""
    module = QuirksModule(directory, *lines)
    settings = store.settings(directory.name)
    return module, structs.replace(
        settings, module=str(module.path), environment=settings.environment | module.environment(MODULE)
    )


def site_key(store: Store) -> Key:
    """The RSA key of the shared partition, as a site's."""
    return inbound_key(KeyURI(object="trust"), public_key(store, "trust"), ("shop",))


def ca_key(store: Store) -> Key:
    """The same as a CA's."""
    site = site_key(store)
    return structs.replace(site, name="trust", sites=())


@pytest.mark.parametrize(("function", "code"), EVERYWHERE)
@pytest.mark.parametrize(
    ("mechanism", "made", "whole"),
    [("CKM_RSA_PKCS", PSS, SHA256_RSA_PKCS), ("CKM_RSA_PKCS_PSS", PKCS1, SHA256_RSA_PSS)],
)
async def test_a_mechanism_that_is_listed_and_forbidden(
    stores: list[Store], tmp_path: Path, function: str, code: int, mechanism: str, made: list[str], whole: int
) -> None:
    """A mechanism that is forbidden costs handshakes its schemes and nothing else; a CA goes over to messages, and asks
    for the forbidden form once in all, whatever session it has."""
    module, settings = quirky(stores[0], tmp_path / "m1", f"forbid {function} {mechanism} 0x{code:x}")
    site = site_key(stores[0])
    async with make_group([settings], Failover(keep_alive_s=3600), keys={site.name: site}) as group:
        assert [one.name for one in group.schemes(site.name)] == made
        (member,) = group.members
        assert member.lacks(site.name).keys() == set(ALL) - set(made)
    ca = ca_key(stores[0])
    if mechanism == "CKM_RSA_PKCS_PSS":
        ca = structs.replace(ca, scheme=ca.others[2], others=())
    async with make_group([settings], Failover(keep_alive_s=3600), sessions=4, keys={"trust": ca}) as group:
        forbidden, allowed = module.signed_with(RSA_PKCS if made is PSS else RSA_PSS), module.signed_with(whole)
        for number in range(20):
            message = MESSAGE + b"%d" % number
            await group.sign("trust", message, ca.scheme.digest(message), in_s(5), "mint")
        assert module.signed_with(RSA_PKCS if made is PSS else RSA_PSS) == forbidden
        assert module.signed_with(whole) == allowed + 20


async def test_a_token_that_lists_no_pss(stores: list[Store], tmp_path: Path) -> None:
    """A token without RSA-PSS serves handshakes with what it has, and is not asked for what it has not."""
    lines = ["missing CKM_RSA_PKCS_PSS", *(f"missing CKM_SHA{size}_RSA_PKCS_PSS" for size in (256, 384, 512))]
    module, settings = quirky(stores[0], tmp_path / "m1", *lines)
    site = site_key(stores[0])
    async with make_group([settings], keys={site.name: site}) as group:
        assert [one.name for one in group.schemes(site.name)] == PKCS1
        assert set(group.members[0].lacks(site.name).values()) == {"the partition lists no mechanism for it"}
        assert module.signed_with(RSA_PSS) == module.signed_with(SHA256_RSA_PSS) == 0


async def test_a_mechanism_that_is_not_for_signing(stores: list[Store], tmp_path: Path) -> None:
    """A mechanism without CKF_SIGN is not used where another makes the scheme; where none does it is tried, because
    some tokens tell no flags."""
    module, settings = quirky(stores[0], tmp_path / "m1", "nosign CKM_RSA_PKCS")
    ca, site = ca_key(stores[0]), site_key(stores[0])
    async with make_group([settings], keys={"trust": ca}) as group:
        await group.sign("trust", MESSAGE, ca.scheme.digest(MESSAGE), in_s(5), "mint")
        assert module.signed_with(RSA_PKCS) == 0
        assert module.signed_with(SHA256_RSA_PKCS) > 0
    async with make_group([settings], keys={site.name: site}) as group:
        assert [one.name for one in group.schemes(site.name)] == ALL
        assert module.signed_with(RSA_PKCS) > 0


async def test_everything_is_forbidden(stores: list[Store], tmp_path: Path) -> None:
    """A key that may not sign at all is not served, and says why; the member's other keys are."""
    _, settings = quirky(stores[0], tmp_path / "m1", "forbid C_SignInit * 0x68 label=trust")
    ca, other = ca_key(stores[0]), Key("untrust", KeyURI(object="untrust"), public_key(stores[0], "untrust"), EC)
    async with make_group([settings], keys={"trust": ca, "untrust": other}) as group:
        assert group.proved_by("trust") == []
        assert group.proved_by("untrust") == ["m1"]
        assert "CKR_KEY_FUNCTION_NOT_PERMITTED (0x68)" in group.problems("trust")["m1"]


@pytest.mark.parametrize(("function", "code"), EVERYWHERE)
async def test_a_policy_that_comes_while_we_run(stores: list[Store], tmp_path: Path, function: str, code: int) -> None:
    """A mechanism that one member forbids from now on costs no request: a peer makes it, the member is not asked for it
    any more, and serves what it may. Where all forbid it, it is not offered any more."""
    modules, members = [], []
    for store, name in zip(stores, ("m1", "m2"), strict=False):
        module, settings = quirky(store, tmp_path / name)
        modules.append(module)
        members.append(settings)
    site = site_key(stores[0])
    pss = site.others[2]
    async with make_group(members, Failover(keep_alive_s=3600), keys={site.name: site}) as group:
        first, second = group.members
        line = f"forbid {function} CKM_RSA_PKCS_PSS 0x{code:x}"

        async def ask() -> None:
            await group.sign(site.name, None, pss.digest(MESSAGE), in_s(5), "tls", pss)

        modules[0].quirks(line)
        for _ in range(500):
            await asyncio.gather(*(ask() for _ in range(6)))
            if pss.name not in first.schemes(site.name):
                break
        assert pss.name not in first.schemes(site.name)
        assert (first.starts, second.starts) == (1, 1)
        assert set(PKCS1) <= first.schemes(site.name)
        await until(lambda: not first.schemes(site.name) & set(PSS), "nor for what the same mechanism makes")
        modules[1].quirks(line)
        with pytest.raises(HsmitmError):
            await ask()
        await until(lambda: pss not in group.schemes(site.name), "it is not offered any more")
        assert (first.starts, second.starts) == (1, 1)
        await group.sign(site.name, None, site.scheme.digest(MESSAGE), in_s(5), "tls", site.scheme)


async def test_a_ca_whose_scheme_is_forbidden_while_we_run(stores: list[Store], tmp_path: Path) -> None:
    """A CA that may not sign as it did goes over to messages at once, and where those are forbidden, too, to another
    scheme within a second; its member's other keys go on."""
    module, settings = quirky(stores[0], tmp_path / "m1")
    ca, other = ca_key(stores[0]), Key("untrust", KeyURI(object="untrust"), public_key(stores[0], "untrust"), EC)
    async with make_group([settings], Failover(keep_alive_s=3600), keys={"trust": ca, "untrust": other}) as group:
        (member,) = group.members

        async def ask() -> None:
            scheme = group.schemes("trust")[0]
            await group.sign("trust", MESSAGE, scheme.digest(MESSAGE), in_s(5), "mint", scheme)

        module.quirks("forbid C_SignInit CKM_RSA_PKCS 0x70")
        await ask()
        assert group.schemes("trust")[0] is ca.scheme
        module.quirks(*(f"forbid C_SignInit CKM_{name}RSA_PKCS 0x70" for name in ("", "SHA256_", "SHA384_", "SHA512_")))
        with pytest.raises(HsmitmError):
            await ask()
        await until(lambda: member.schemes("trust") == {"rsa_pss_rsae_sha256"}, "it signs in RSA-PSS", 5)
        await ask()
        assert (member.starts, group.proved_by("untrust")) == (1, ["m1"])


async def test_a_token_that_tells_nothing_of_its_mechanisms(stores: list[Store], tmp_path: Path) -> None:
    """A token that lists mechanisms and says nothing of them is tried as if they all signed."""
    _, settings = quirky(stores[0], tmp_path / "m1", "answer C_GetMechanismInfo 0x54")
    site = site_key(stores[0])
    async with make_group([settings], keys={site.name: site}) as group:
        assert [one.name for one in group.schemes(site.name)] == ALL


# --- decryption -------------------------------------------------------------------------------------------------------

PREMASTER = b"\3\3" + bytes(46)


def ciphertext(store: Store, label: str) -> bytes:
    """What a client of RSA key exchange sends."""
    public = public_key(store, label)
    assert isinstance(public, rsa.RSAPublicKey)
    return public.encrypt(PREMASTER, padding.PKCS1v15())


def decrypting_key(store: Store) -> Key:
    """The key of a site with RSA key exchange."""
    return inbound_key(KeyURI(object="old"), public_key(store, "old"), ("old",), decrypts=True)


@pytest.mark.parametrize("code", [0x68, 0x70, 0x05])
async def test_who_does_not_decrypt_is_not_asked_to(
    sites_store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """A member that lists decryption and refuses it signs, and is not asked to decrypt; a peer is, each time."""
    key = decrypting_key(sites_store)
    forbids, refusing = quirky(sites_store, tmp_path / "m1", f"forbid C_DecryptInit CKM_RSA_PKCS 0x{code:x}")
    _, willing = quirky(copy_of(sites_store, tmp_path / "copy"), tmp_path / "m2")
    async with make_group([refusing, willing], Failover(keep_alive_s=3600), keys={key.name: key}) as group:
        before = forbids.calls("C_DecryptInit")
        found = await asyncio.gather(
            *(group.decrypt(key.name, ciphertext(sites_store, "old"), in_s(5)) for _ in range(20))
        )
        assert found == [PREMASTER] * 20
        assert forbids.calls("C_DecryptInit") == before
        assert group.proved_by(key.name) == ["m1", "m2"]
        assert group.proved_by(key.name, DECRYPTION) == ["m2"]
        assert sum("member m1 does not decrypt with the key of old: " in line for line in caplog.messages) == 1
        await group.members[1].stop()
        with pytest.raises(UnavailableError, match="no member of the HSM in service decrypts"):
            await group.decrypt(key.name, ciphertext(sites_store, "old"), in_s(5))


# --- how long it takes ------------------------------------------------------------------------------------------------


async def test_new_sessions_of_a_slow_hsm_with_many_schemes(stores: list[Store], tmp_path: Path) -> None:
    """A slow HSM has the time to prove every scheme anew when it gets new sessions, whatever a start may take."""
    module, settings = quirky(stores[0], tmp_path / "m1")
    settings = structs.replace(settings, start_timeout_s=1.0)
    site = site_key(stores[0])
    patient = Failover(keep_alive_s=3600, attempt_timeout_s=5.0)
    async with make_group([settings], patient, keys={site.name: site}) as group:
        module.quirks("serial", "slow 250")
        scheme = site.scheme
        for _ in range(16):  # its recent answers are slow
            await group.sign(site.name, None, scheme.digest(MESSAGE), in_s(5), "tls", scheme)
        (told,) = await group.reset("m1")
        assert told.startswith("m1: new sessions in process"), told
        assert [one.name for one in group.schemes(site.name)] == ALL
