"""Which schemes of a key a member makes, on keys whose partition forbids some of what it lists."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from hsm.errors import BadSignatureError, KeyLostError, MemberLostError, RefusedError, SchemeLostError
from hsm.member.key import Key, inbound_key
from hsm.schemes import SCHEMES
from hsm.uri import KeyURI
from hsm.wire.member import Reply, Request, Sign
from tests.hsm.member.test_life import living, signatures
from tests.hsm.restricted import ECDSA, PKCS1, PSS, RSA_PKCS, RSA_PSS, SHA256_RSA_PKCS, SHA256_RSA_PSS, put_key
from tests.softhsm import Store, in_s, make_store

ALL = [*PKCS1, *PSS]
ROWS = [
    # allowed mechanisms, schemes made for handshakes, for a CA
    ([], ALL, ["rsa_pkcs1_sha256"]),
    ([RSA_PKCS], PKCS1, ["rsa_pkcs1_sha256"]),
    ([RSA_PSS], PSS, ["rsa_pss_rsae_sha256"]),
    ([RSA_PKCS, RSA_PSS], ALL, ["rsa_pkcs1_sha256"]),
    ([SHA256_RSA_PKCS], [], ["rsa_pkcs1_sha256"]),
    ([SHA256_RSA_PSS], [], ["rsa_pss_rsae_sha256"]),
    ([SHA256_RSA_PKCS, RSA_PSS], PSS, ["rsa_pkcs1_sha256"]),
    ([0x41], [], ["rsa_pkcs1_sha384"]),
    ([0x45], [], ["rsa_pss_rsae_sha512"]),
    ([0x1041], [], []),
]


@pytest.fixture
async def store(softhsm_module: str, tmp_path: Path) -> Store:
    """An empty partition."""
    return await make_store(tmp_path / "store", {})


def key_for(store: Store, kind: str, allowed: Collection[int], *, inbound: bool) -> Key:
    """A key of this kind on the partition, restricted; for a site, or for a CA."""
    public = put_key(store, "key", kind, allowed)
    site = inbound_key(KeyURI(object="key"), public, ("shop",))
    return site if inbound else Key(site.name, site.uri, public, site.scheme, others=site.others)


@pytest.mark.parametrize("inbound", [True, False], ids=["site", "CA"])
@pytest.mark.parametrize(("allowed", "handshakes", "ca"), ROWS, ids=[str(row[0]) for row in ROWS])
async def test_what_is_allowed_is_what_is_proved(
    store: Store, allowed: list[int], handshakes: list[str], ca: list[str], *, inbound: bool
) -> None:
    """A key is served with just the schemes that its partition allows, whatever the partition lists: a site's with all
    of them, from a digest alone; a CA's with the first, from the digest or else from the message."""
    key = key_for(store, "rsa", allowed, inbound=inbound)
    expected = handshakes if inbound else ca
    async with living(store, {key.name: key}) as life:
        await life.prove()
        assert sorted(life.held.made.schemes.get(key.name, ())) == sorted(expected)
        assert bool(life.found[key.name].problem) is not bool(expected)
        for name in expected:
            scheme = SCHEMES[name]
            message = None if inbound else b"message"
            await life.sign(key.request(message, scheme.digest(b"message"), scheme), in_s(5), "mint")
        if inbound and expected:
            assert life.held.made.lacks(key.name).keys() == set(ALL) - set(expected)
            for name in set(ALL) - set(expected):
                with pytest.raises(RefusedError):
                    await life.sign(key.challenge(SCHEMES[name]), in_s(5), "tls")


async def test_why_a_handshake_cannot_have_what_a_leaf_can(store: Store) -> None:
    """Where the partition signs messages and no digests, an operator reads that this is why sites cannot use it."""
    key = key_for(store, "rsa", [RSA_PKCS, SHA256_RSA_PSS], inbound=True)
    async with living(store, {key.name: key}) as life:
        await life.prove()
        lacks = life.held.made.lacks(key.name)
        assert lacks["rsa_pss_rsae_sha256"] == (
            "the partition makes it only where it hashes the message itself (CKR_MECHANISM_INVALID (0x70)), and a TLS "
            "server has the digest alone"
        )
        assert lacks["rsa_pss_rsae_sha384"] == (
            "it did not sign a challenge: CKR_MECHANISM_INVALID (0x70) while signing"
        )


async def test_an_elliptic_key_that_may_not_sign(store: Store) -> None:
    """An EC key, which has one scheme, is not served where that is forbidden."""
    key = key_for(store, "p256", [RSA_PKCS], inbound=True)
    async with living(store, {key.name: key}) as life:
        await life.prove()
        assert life.proved == set()
        assert "CKR_MECHANISM_INVALID" in life.found[key.name].problem
    free = key_for(store, "p256", [ECDSA], inbound=True)
    free = Key("free", KeyURI(object="key"), free.public, free.scheme, sites=("shop",))
    assert free.challenge().message is None


async def test_one_line_for_each_reason(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The log says once for each reason which schemes a member does not make."""
    key = key_for(store, "rsa", [RSA_PKCS], inbound=True)
    async with living(store, {key.name: key}) as life:
        await life.prove()
    assert caplog.messages == [
        "member m1 makes no rsa_pss_rsae_sha256, 384 and 512 with the key of shop: it did not sign a challenge: "
        "CKR_MECHANISM_INVALID (0x70) while signing"
    ]


def altered(
    life: object, change: Callable[[Sign, int], Sign | Exception | None], counts: dict[str, int] | None = None
) -> None:
    """Have each request for a signature go through `change`, with its number for that scheme: another request, an
    answer's error, or as it is."""
    channel = life.process.channel  # type: ignore[attr-defined]
    call, numbers = channel.call, {} if counts is None else counts

    async def changed(body: Request, deadline: float, *outlived: Callable[[], None]) -> Reply:
        if isinstance(body, Sign):
            numbers[body.scheme] = numbers.get(body.scheme, 0) + 1
            new = change(body, numbers[body.scheme])
            if isinstance(new, Exception):
                raise new
            body = new or body
        reply: Reply = await call(body, deadline, *outlived)
        return reply

    channel.call = changed


async def test_a_scheme_that_is_always_wrong(store: Store) -> None:
    """A scheme whose signatures never verify (a salt of another length, say) is not offered, and the others are."""
    key = key_for(store, "rsa", [], inbound=True)

    def wrong_pss(body: Sign, _number: int) -> Sign | None:
        return key.challenge(SCHEMES[body.scheme]) if body.scheme in PSS else None

    async with living(store, {key.name: key}) as life:
        altered(life, wrong_pss)
        await life.prove()
        assert sorted(life.held.made.schemes[key.name]) == sorted(PKCS1)
        assert "does not verify" in life.held.made.lacks(key.name)["rsa_pss_rsae_sha256"]


async def test_a_scheme_that_is_wrong_once(store: Store) -> None:
    """A signature that is wrong once and right the next time is the member's fault, in any scheme."""
    key = key_for(store, "rsa", [], inbound=True)

    def wrong_once(body: Sign, number: int) -> Sign | None:
        return key.challenge(SCHEMES[body.scheme]) if (body.scheme, number) == ("rsa_pss_rsae_sha384", 1) else None

    async with living(store, {key.name: key}) as life:
        altered(life, wrong_once)
        with pytest.raises(BadSignatureError):
            await life.prove()


async def test_a_token_that_throttles_loses_no_scheme(store: Store) -> None:
    """A proof that fails for a moment is made once more, and one that the token has no room for as long as it takes."""
    key = key_for(store, "rsa", [], inbound=True)

    def throttled(body: Sign, number: int) -> Exception | None:
        if number == 1 and body.scheme != "rsa_pkcs1_sha384":
            return MemberLostError("CKR_FUNCTION_FAILED (0x6) while signing", 0x06)
        if number <= 3 and body.scheme == "rsa_pkcs1_sha384":
            return MemberLostError("CKR_DEVICE_MEMORY (0x31) while signing", 0x31)
        return None

    async with living(store, {key.name: key}) as life:
        altered(life, throttled)
        await life.prove()
        assert sorted(life.held.made.schemes[key.name]) == sorted(ALL)


async def test_a_scheme_that_failed_for_a_while_comes_back(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """A scheme that failed at start without being refused is asked for again later, and then offered."""
    caplog.set_level("INFO", "hsmitm.member")
    key = key_for(store, "rsa", [], inbound=True)
    failing = {"rsa_pss_rsae_sha512"}

    def fails(body: Sign, _number: int) -> Exception | None:
        return MemberLostError("CKR_GENERAL_ERROR (0x5) while signing", 0x05) if body.scheme in failing else None

    async with living(store, {key.name: key}) as life:
        altered(life, fails)
        await life.prove()
        assert life.held.may_be_more
        assert set(ALL) - life.held.made.schemes[key.name] == failing
        await life.look_again(in_s(5))
        assert set(ALL) - life.held.made.schemes[key.name] == failing
        failing.clear()
        await life.look_again(in_s(5))
        assert sorted(life.held.made.schemes[key.name]) == sorted(ALL)
        assert not life.held.may_be_more
        assert caplog.messages[-1] == "member m1 makes rsa_pss_rsae_sha512 with the key of shop again"


async def test_a_scheme_that_is_forbidden_later(store: Store) -> None:
    """A scheme that a policy forbids while we run is tested twice, and with it what the same mechanism makes, then not
    asked for any more; the key goes on with the others, and is lost with the last one."""
    key = key_for(store, "rsa", [], inbound=True)
    forbidden: set[str] = set()

    def forbids(body: Sign, _number: int) -> Exception | None:
        refused = RefusedError("CKR_MECHANISM_INVALID (0x70) while signing", 0x70)
        return refused if body.scheme in forbidden else None

    async with living(store, {key.name: key}) as life:
        altered(life, forbids)
        await life.prove()
        forbidden |= set(PSS)
        with pytest.raises(SchemeLostError):
            await life.sign(key.challenge(SCHEMES["rsa_pss_rsae_sha256"]), in_s(5), "tls")
        assert "rsa_pss_rsae_sha256" in life.held.made.schemes[key.name], "it may have been a stale handle"
        await life.test(in_s(5))
        assert sorted(life.held.made.schemes[key.name]) == sorted(PKCS1)
        forbidden |= set(PKCS1)
        with pytest.raises(KeyLostError, match="none of its keys can be used any more"):
            await life.test(in_s(5))
        assert "CKR_MECHANISM_INVALID" in life.found[key.name].problem


async def test_tests_go_through_every_scheme(store: Store) -> None:
    """Test signatures are made in each scheme of a key in turn: one that is lost is noticed before a client asks."""
    key = key_for(store, "rsa", [], inbound=True)
    counts: dict[str, int] = {}
    async with living(store, {key.name: key}) as life:
        altered(life, lambda _body, _number: None, counts)
        await life.prove()
        assert counts == dict.fromkeys(ALL, 1)
        for _ in range(len(ALL)):
            await life.test(in_s(5))
        assert counts == dict.fromkeys(ALL, 2)
        assert signatures(life, "proof") == len(ALL)
