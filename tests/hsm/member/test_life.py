"""One life of a member on a real process: which keys it proves, what its signatures say, how well it is."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from hsm.errors import BadSignatureError, DeadlineError, KeyLostError, MemberLostError, RefusedError
from hsm.member import proofs
from hsm.member.key import Key
from hsm.member.life import Life
from hsm.member.metrics import MemberMetrics
from hsm.member.process import MemberProcess
from hsm.uri import KeyURI
from hsm.wire.member import Open, Opened, Reply, Request, Selector, Sign
from tests.hsm.members import copy_of, hung, key_of, key_spoilt, keys_of, note_change, objects_of
from tests.softhsm import MODULE, PIN, Store, in_s, make_store
from tests.waiting import until


@asynccontextmanager
async def living(store: Store, keys: Mapping[str, Key] | None = None, sessions: int = 2) -> AsyncIterator[Life]:
    """A process that has opened its partition and proved nothing yet."""
    keys = keys_of(store) if keys is None else keys
    process = await MemberProcess.spawn(store.environment)
    try:
        opening = Open(
            MODULE,
            Selector(label=store.label),
            PIN,
            sessions,
            {name: key.uri for name, key in keys.items()},
            spkis={name: key.spki for name, key in keys.items()},
            anywhere=[name for name, key in keys.items() if key.members is None],
        )
        opened = await process.channel.call(opening, in_s(20))
        assert isinstance(opened, Opened)
        yield Life("m1", process, opened, keys, MemberMetrics(CollectorRegistry()))
    finally:
        await process.end()


def signatures(life: Life, purpose: str) -> float:
    """How many signatures for `purpose` were verified."""
    return sum(
        sample.value
        for family in life._metrics._signatures.collect()
        for sample in family.samples
        if sample.name == "hsmitm_signatures_total" and sample.labels["purpose"] == purpose
    )


def use_signature_of_another_message(life: Life) -> None:
    """Have every answer from here on be a real signature by the right key, but of another message."""
    call = life.process.channel.call

    async def wrong(body: Request, deadline: float, *outlived: Callable[[], None]) -> Reply:
        if isinstance(body, Sign):
            body = life.held.keys[body.key].challenge()
        return await call(body, deadline, *outlived)

    life.process.channel.call = wrong  # type: ignore[method-assign]


# --- which keys it proves ---------------------------------------------------------------------------------------------


async def test_proves_its_keys(stores: list[Store]) -> None:
    """A member serves a key once it has signed a challenge that the certificate's key verifies."""
    async with living(stores[0]) as life:
        assert life.proved == set()
        await life.prove()
        assert life.proved == {"trust", "untrust"}
        assert life.found == stores[0].keys
        assert signatures(life, "proof") == 2


async def test_a_certificate_of_another_key(stores: list[Store], caplog: pytest.LogCaptureFixture) -> None:
    """A key that is not the certificate's is not served, and its member's other keys are all the same."""
    another = ec.generate_private_key(ec.SECP256R1()).public_key()
    keys = {"bad": key_of(stores[0], "untrust", "bad", public=another), "good": key_of(stores[0], "untrust", "good")}
    async with living(stores[0], keys) as life:
        await life.prove()
        problem = "pkcs11:object=untrust;type=private is not the key of the certificate: their public keys differ"
        assert life.proved == {"good"}
        assert life.found["bad"].problem == problem
        assert signatures(life, "proof") == 1
    assert caplog.messages == [f"member m1 cannot serve key 'bad': {problem}"]


async def test_a_key_of_another_label(stores: list[Store]) -> None:
    """A member of a group may hold a key under a label of its own: its public key tells which it is."""
    keys = {
        label: key_of(stores[0], label, uri=KeyURI(object=f"called otherwise, {label}")) for label in stores[0].keys
    }
    async with living(stores[0], keys) as life:
        await life.prove()
        assert life.proved == {"trust", "untrust"}
        for key in keys.values():
            await life.sign(key.challenge(), in_s(5), "mint")


async def test_a_label_that_another_key_has(stores: list[Store]) -> None:
    """Where the label names another key of the group, the one with the certificate's public key is used."""
    keys = {"trust": key_of(stores[0], "trust", uri=KeyURI(object="untrust"))}
    async with living(stores[0], keys) as life:
        await life.prove()
        assert life.proved == {"trust"}


async def test_a_key_of_one_member_alone_is_found_by_its_uri(
    stores: list[Store], caplog: pytest.LogCaptureFixture
) -> None:
    """Without high availability a key is what its URI names; a key of another label is none."""
    uri = KeyURI(object="called otherwise")
    keys = {"trust": key_of(stores[0], "trust", uri=uri, members=frozenset({"m1"}))}
    async with living(stores[0], keys) as life:
        await life.prove()
        assert life.proved == set()
        assert life.found["trust"].problem.startswith("no private key pkcs11:object=called%20otherwise;type=private on")
    assert len(caplog.messages) == 1


async def test_a_key_that_is_not_there(stores: list[Store], tmp_path: Path) -> None:
    """A member that lacks a key says so, and serves the others."""
    own = copy_of(stores[0], tmp_path / "own")
    for path in objects_of(own, "trust"):
        path.unlink()
    async with living(own) as life:
        await life.prove()
        assert life.proved == {"untrust"}
        assert life.found["trust"].problem.startswith("no private key pkcs11:object=trust;type=private on partition")


async def without_public_half(store: Store) -> Store:
    """`store`, its EC key without the public key object: some tokens keep none. It must have that one key."""
    for path in objects_of(store, "untrust"):
        content = path.read_bytes()
        path.unlink()
        async with living(store) as life:
            if not life.found["untrust"].missing:
                return store
        path.write_bytes(content)
    raise AssertionError("no object of the store is the public key")


async def test_a_partition_without_public_halves(softhsm_module: str, tmp_path: Path) -> None:
    """Where a partition keeps no public key, the signature of a challenge alone tells the right key from another."""
    own = await without_public_half(await make_store(tmp_path / "own", {"untrust": "p256"}))
    another = ec.generate_private_key(ec.SECP256R1()).public_key()
    keys = {"bad": key_of(own, "untrust", "bad", public=another), "good": key_of(own, "untrust", "good")}
    async with living(own, keys) as life:
        await life.prove()
        assert life.proved == {"good"}
        assert "its signature of a challenge does not verify" in life.found["bad"].problem


async def test_a_process_that_dies_under_its_proof(stores: list[Store]) -> None:
    """A process that ends while it proves its keys is lost; no key is said to be at fault."""
    async with living(stores[0]) as life:
        with hung(life.process.pid):
            proving = asyncio.create_task(life.prove())
            await until(lambda: life.in_flight == 1, "a challenge is sent")
            life.process._process.kill()
            with pytest.raises(MemberLostError, match="closed under the request"):
                await proving
        assert [found.problem for found in life.found.values()] == ["", ""]
        assert life.lost


async def test_a_process_that_hangs_under_its_proof(stores: list[Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that hangs while it proves its keys is not waited for without end."""
    monkeypatch.setattr(proofs, "PROOF_TIMEOUT_S", 0.2)
    async with living(stores[0]) as life:
        with hung(life.process.pid), pytest.raises(DeadlineError):
            await life.prove()
        assert life.proved == set()


async def test_a_wrong_signature_of_the_right_key(stores: list[Store]) -> None:
    """A wrong signature is the member's fault and not the key's where the partition shows the right public key."""
    async with living(stores[0]) as life:
        use_signature_of_another_message(life)
        with pytest.raises(BadSignatureError):
            await life.prove()
        assert life.proved == set()


async def test_a_key_that_is_broken(stores: list[Store], tmp_path: Path) -> None:
    """A key whose object is broken is told from a member that fails by the other keys that it proves."""
    own = copy_of(stores[0], tmp_path / "own")
    for broken, other in (("trust", "untrust"), ("untrust", "trust")):
        with key_spoilt(own, broken):
            async with living(own) as life:
                await life.prove()
                assert life.proved == {other}
                assert life.found[broken].problem == (
                    "it did not sign a challenge: CKR_GENERAL_ERROR (0x5) while signing"
                )
                await life.look_again(in_s(5))
                assert life.proved == {other}
            async with living(own, {broken: key_of(own, broken)}) as life:
                with pytest.raises(MemberLostError, match="CKR_GENERAL_ERROR"):
                    await life.prove()


async def test_a_failed_test_is_made_by_another_key(stores: list[Store], tmp_path: Path) -> None:
    """After a test signature that failed the next one is made by another key: it tells whose fault that was."""
    own = copy_of(stores[0], tmp_path / "own")
    async with living(own, sessions=1) as life:
        await life.prove()
        with key_spoilt(own, "trust"):
            with pytest.raises(MemberLostError, match="CKR_GENERAL_ERROR"):
                await life.test(in_s(5))
            await life.test(in_s(5))
            assert life.proved == {"trust", "untrust"}


# --- signatures -------------------------------------------------------------------------------------------------------


async def test_a_wrong_signature_never_leaves(stores: list[Store]) -> None:
    """A signature that does not verify is an error, and is not counted as a signature."""
    async with living(stores[0]) as life:
        request = life.held.keys["trust"].challenge()
        assert life.held.keys["trust"].verifies(request, await life.sign(request, in_s(5), "mint"))
        use_signature_of_another_message(life)
        with pytest.raises(BadSignatureError, match="member m1 returned a signature that does not verify"):
            await life.sign(request, in_s(5), "mint")
        assert signatures(life, "mint") == 1


async def test_counts_what_is_in_flight(stores: list[Store]) -> None:
    """Requests in flight are counted until they end. One that its caller gave up keeps its slot until the member has
    answered it: its session is busy, and another request would only queue behind it."""
    freed: list[int] = []
    async with living(stores[0]) as life:
        life.freed = lambda: freed.append(life.in_flight)
        assert life.idle.is_set()
        with hung(life.process.pid):
            calls = [
                asyncio.create_task(life.sign(life.held.keys["untrust"].challenge(), in_s(5), "mint")) for _ in range(3)
            ]
            await until(lambda: life.in_flight == 3, "the requests are sent")
            assert not life.idle.is_set()
            calls[0].cancel()
            await until(calls[0].done, "its caller is gone at once")
            assert (calls[0].cancelled(), life.in_flight, freed) == (True, 3, [])
        await asyncio.gather(*calls[1:])
        await until(lambda: len(freed) == 3, "the slot of the one that was given up is told to be free, too")
        assert (life.in_flight, life.idle.is_set(), freed) == (0, True, [2, 1, 0])
        assert signatures(life, "mint") == 2


async def test_a_slot_that_was_given_up_is_free_at_its_deadline(stores: list[Store]) -> None:
    """A request that its caller gave up, at a member that hangs, keeps its slot no longer than its deadline."""
    freed: list[int] = []
    async with living(stores[0]) as life:
        life.freed = lambda: freed.append(life.in_flight)
        with hung(life.process.pid):
            call = asyncio.create_task(life.sign(life.held.keys["untrust"].challenge(), in_s(0.3), "mint"))
            await until(lambda: life.in_flight == 1, "the request is sent")
            call.cancel()
            await until(lambda: freed == [0], "the slot is free")
            assert life.idle.is_set()


# --- test signatures --------------------------------------------------------------------------------------------------


async def test_tests_each_key_in_turn(stores: list[Store]) -> None:
    """Test signatures are made by each of the keys in turn, and tell the latency."""
    async with living(stores[0]) as life:
        await life.prove()
        asked: list[str] = []
        sign = life.sign

        async def noted(request: Sign, deadline: float, purpose: str) -> bytes:
            asked.append(request.key)
            return await sign(request, deadline, purpose)

        life.sign = noted  # type: ignore[method-assign]
        for _ in range(4):
            await life.test(in_s(5))
        assert asked == ["trust", "untrust"] * 2
        assert signatures(life, "test") == 4
        assert life.health.latency_s != 0.001


async def test_a_deleted_key_is_told_from_a_lost_login(
    stores: list[Store], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A test signature that finds one key gone notes that key; one that finds all gone says that the member is lost."""
    own = copy_of(stores[0], tmp_path / "own")
    async with living(own, sessions=1) as life:
        await life.prove()
        for path in objects_of(own, "trust"):
            path.rename(tmp_path / path.name)
        note_change(own)
        for _ in range(2):
            await life.test(in_s(5))
        assert life.proved == {"untrust"}
        problem = life.found["trust"].problem
        assert "no private key pkcs11:object=trust" in problem
        (token,) = (own.directory / "tokens").iterdir()
        token.rename(own.directory / "away")
        with pytest.raises(KeyLostError, match="none of its keys can be used any more"):
            await life.test(in_s(5))
        assert life.proved == set()
    assert caplog.messages[0] == f"member m1 cannot serve key 'trust': {problem}"
    assert len(caplog.messages) == 2


async def test_a_refused_test_is_made_once_more(stores: list[Store], monkeypatch: pytest.MonkeyPatch) -> None:
    """A key that refuses its own test twice is not served any more; once is a stale handle's mistake."""
    async with living(stores[0]) as life:
        await life.prove()
        call, refusals = life.process.channel.call, [1]

        async def refusing(body: Request, deadline: float, *outlived: Callable[[], None]) -> Reply:
            if isinstance(body, Sign) and body.key == "trust" and refusals[0]:
                refusals[0] -= 1
                body = Sign(body.key, "ecdsa_secp256r1_sha256", bytes(32))  # which an RSA key refuses
            return await call(body, deadline, *outlived)

        life.process.channel.call = refusing  # type: ignore[method-assign]
        await life.test(in_s(5))
        assert life.proved == {"trust", "untrust"}
        await life.test(in_s(5))
        refusals[0] = 2
        await life.test(in_s(5))
        assert life.proved == {"untrust"}
        assert "cannot make ecdsa_secp256r1_sha256" in life.found["trust"].problem


async def test_a_life_that_proved_nothing_passes_no_test(stores: list[Store]) -> None:
    """A life without a key makes no test signature, and is not lost for that."""
    async with living(stores[0]) as life:
        await life.test(in_s(5))
        assert signatures(life, "test") == 0


# --- looking again ----------------------------------------------------------------------------------------------------


async def test_looks_for_a_key_again(stores: list[Store], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A key that was missing is served once it was put on the partition; until then it is told once."""
    caplog.set_level("INFO", "hsmitm.member")
    own = copy_of(stores[0], tmp_path / "own")
    paths = objects_of(own, "trust")
    away = [path.rename(tmp_path / path.name) for path in paths]
    async with living(own) as life:
        await life.prove()
        await life.look_again(in_s(5))
        assert life.proved == {"untrust"}
        for there, path in zip(away, paths, strict=True):
            there.rename(path)
        note_change(own)
        await life.look_again(in_s(5))
        assert life.proved == {"trust", "untrust"}
        assert life.found == own.keys
        await life.sign(life.held.keys["trust"].challenge(), in_s(5), "mint")
    assert [line.split(":")[0] for line in caplog.messages] == [
        "member m1 cannot serve key 'trust'",
        "member m1 serves key 'trust' again",
    ]


# --- how it is --------------------------------------------------------------------------------------------------------


async def test_tells_how_it_is(stores: list[Store]) -> None:
    """A process says how many sessions serve and that none hangs; one that hangs as a whole says nothing."""
    async with living(stores[0], sessions=3) as life:
        vital = await life.vital(in_s(5))
        assert (vital.sessions, vital.queued, vital.replaced, vital.oldest_s) == (3, 0, 0, 0)
        assert life.sessions == 3
        before = time.monotonic()
        with hung(life.process.pid), pytest.raises(DeadlineError):
            await life.vital(in_s(0.1))
        assert time.monotonic() - before < 1


async def test_refuses_what_it_was_not_given(stores: list[Store]) -> None:
    """A request that is wrong in itself is refused by the process, and says nothing about it."""
    async with living(stores[0]) as life:
        with pytest.raises(RefusedError, match="a digest of 3 bytes"):
            await life.sign(Sign("trust", "rsa_pkcs1_sha256", b"abc"), in_s(5), "mint")
        assert not life.lost
