"""Members that hold the same keys: which of them count, who is asked, and that no bad signature ever leaves."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from hsm import group as group_module
from hsm import pin, wire
from hsm.errors import DeadlineError, RefusedError, TryLaterError
from hsm.group import Group, Key
from hsm.lifecycle import State
from hsm.member import Member, MemberProcess, MemberSettings
from hsm.schemes import SCHEMES, PublicKey, certificate_scheme
from hsm.uri import KeyURI
from tests.cas import public_key
from tests.softhsm import Store, in_s, make_store
from tests.waiting import until

MESSAGE = b"message"


def key(store: Store, label: str, public: PublicKey | None = None) -> Key:
    """The key `label` of `store`, with the certificate's `public` key: its own unless another is given."""
    own = public or public_key(store, label)
    return Key(KeyURI(object=label), own, certificate_scheme(own))


def own_keys(store: Store) -> dict[str, Key]:
    """Every key of `store`, by its label."""
    return {label: key(store, label) for label in store.keys}


def copy_of(store: Store, directory: Path) -> Store:
    """Another HSM with the same partition: the same serial number and the same keys."""
    copy = Store(directory, store.label, store.keys)
    shutil.copytree(store.directory / "tokens", directory / "tokens")
    text = (store.directory / "softhsm2.conf").read_text()
    (directory / "softhsm2.conf").write_text(text.replace(str(store.directory), str(directory)))
    shutil.copy2(store.pin_file, copy.pin_file)
    return copy


@asynccontextmanager
async def serving(keys: dict[str, Key], state: Path, *settings: MemberSettings) -> AsyncIterator[Group]:
    """A group whose members have settled."""
    group = Group(keys, CollectorRegistry())
    refusals = pin.Refusals(state)
    refusals.prepare()
    uris = {name: one.uri for name, one in keys.items()}
    group.members = [Member(one, uris, refusals, group.prove) for one in settings]
    lives = [asyncio.create_task(member.run()) for member in group.members]
    try:
        for member in group.members:
            await until(member.settled.is_set, f"{member.name} is up, or known not to be")
        yield group
    finally:
        for life in lives:
            life.cancel()
        await asyncio.gather(*lives, return_exceptions=True)
        for member in group.members:
            await member.stop()


@pytest.fixture
async def two(store: Store, tmp_path: Path) -> AsyncIterator[Group]:
    """Two members on two HSMs that hold the same keys."""
    copy = copy_of(store, tmp_path / "copy")
    members = store.settings("m1"), copy.settings("m2")
    async with serving(own_keys(store), tmp_path / "state", *members) as group:
        yield group


async def sign(group: Group, name: str = "p256", message: bytes = MESSAGE, timeout_s: float = 10) -> bytes:
    """A signature by the group."""
    return await group.sign(name, message, group.keys[name].scheme.digest(message), in_s(timeout_s), "test")


def verifies(group: Group, signature: bytes, name: str = "p256", message: bytes = MESSAGE) -> bool:
    """Whether the certificate's key verifies the signature."""
    one = group.keys[name]
    return one.scheme.verifies(one.public, one.scheme.digest(message), signature)


def counted(group: Group, sample: str, **labels: str) -> float:
    """A counter of the group, added up over labels that are not given."""
    return sum(
        found.value
        for metric in (group._signatures, group._errors)
        for family in metric.collect()
        for found in family.samples
        if found.name == sample and labels.items() <= found.labels.items()
    )


def pid(member: Member) -> int:
    """The process of a member that has one."""
    assert member._process is not None
    return member._process.pid


def use_signature_of_another_message(member: Member, times: int) -> None:
    """Have the member's next answers be real signatures by the right key, but of another message."""
    ask = member.sign

    async def wrong(request: wire.Sign, deadline: float) -> wire.Signature:
        nonlocal times
        times -= 1
        if times < 0:
            return await ask(request, deadline)
        digest = SCHEMES[request.scheme].digest(b"another")
        return await ask(wire.Sign(request.key, request.scheme, digest, b"another"), deadline)

    member.sign = wrong  # type: ignore[method-assign]


# --- proving keys -----------------------------------------------------------------------------------------------------


async def test_a_member_proves_its_keys(store: Store, tmp_path: Path) -> None:
    """A member serves a key once it has signed a challenge that the certificate's key verifies."""
    async with serving(own_keys(store), tmp_path / "state", store.settings()) as group:
        for name in ("rsa", "p256", "p384"):
            assert group.proved_by(name) == ["m1"]
            assert group.problems(name) == {}
            assert group.held["m1"][name] == store.keys[name]
            assert verifies(group, await sign(group, name), name)
        assert counted(group, "hsmitm_signatures_total", member="m1", purpose="proof") == 3
        assert counted(group, "hsmitm_signatures_total", member="m1", purpose="test") == 3
        assert counted(group, "hsmitm_signature_errors_total") == 0


async def test_a_certificate_of_another_key(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A member does not serve a certificate whose key is another one, and serves its other keys all the same."""
    monkeypatch.setattr(group_module, "WAIT_FOR_MEMBER_S", 0.1)
    another = ec.generate_private_key(ec.SECP256R1()).public_key()
    keys = {"bad": key(store, "p256", another), "good": key(store, "p256")}
    async with serving(keys, tmp_path / "state", store.settings()) as group:
        problem = "pkcs11:object=p256;type=private is not the key of the certificate: their public keys differ"
        assert group.members[0].state is State.UP
        assert group.proved_by("bad") == []
        assert group.problems("bad") == {"m1": problem}
        with pytest.raises(TryLaterError, match="their public keys differ"):
            await sign(group, "bad")
        assert group.proved_by("good") == ["m1"]
        assert verifies(group, await sign(group, "good"), "good")
    assert caplog.messages == [f"member m1 cannot serve key 'bad': {problem}"]


async def test_a_key_that_is_not_there(store: Store, tmp_path: Path) -> None:
    """A key that one member lacks is served by the one that has it."""
    async with serving(own_keys(store), tmp_path / "state", store.settings("m1")) as group:
        assert group.proved_by("p256") == ["m1"]
    other = await make_store(tmp_path / "other", {"rsa": "rsa-2048"})
    members = other.settings("m1"), store.settings("m2")
    async with serving({"p256": key(store, "p256")}, tmp_path / "state", *members) as group:
        assert group.proved_by("p256") == ["m2"]
        assert list(group.problems("p256")) == ["m1"]
        assert "no private key pkcs11:object=p256;type=private on partition 'tests'" in group.problems("p256")["m1"]
        signatures = await asyncio.gather(*[sign(group) for _ in range(10)])
        assert all(verifies(group, signature) for signature in signatures)
        assert counted(group, "hsmitm_signature_errors_total") == 0


async def without_public_half(store: Store) -> Store:
    """`store`, its EC key without the public key object: some tokens keep none. It must have that one key."""
    for path in [path for path in store.directory.glob("tokens/*/*.object") if path.name != "token.object"]:
        content = path.read_bytes()
        path.unlink()
        process = await MemberProcess.spawn(store.environment)
        opened = await process.channel.call(store.opening(1), in_s(10))
        await process.end()
        assert isinstance(opened, wire.Opened)
        (found,) = opened.keys.values()
        if not found.missing:
            assert found.spki == b""
            return store
        path.write_bytes(content)
    raise AssertionError("no object of the store is the public key")


async def test_a_partition_without_public_halves(softhsm_module: str, tmp_path: Path) -> None:
    """Where a partition keeps no public key, the signature of a challenge alone tells the right key from another."""
    own = await without_public_half(await make_store(tmp_path / "own", {"p256": "p256"}))
    another = ec.generate_private_key(ec.SECP256R1()).public_key()
    keys = {"bad": key(own, "p256", another), "good": key(own, "p256")}
    async with serving(keys, tmp_path / "state", own.settings()) as group:
        assert group.proved_by("good") == ["m1"]
        assert verifies(group, await sign(group, "good"), "good")
        assert group.proved_by("bad") == []
        assert "its signature of a challenge does not verify" in group.problems("bad")["m1"]


async def test_a_key_that_was_replaced_under_its_label(softhsm_module: str, tmp_path: Path) -> None:
    """A member that comes back with another key of the same label is not used for it: every start proves the keys."""
    first = await make_store(tmp_path / "first", {"p256": "p256"})
    second = await make_store(tmp_path / "second", {"p256": "p256"})
    async with serving(own_keys(first), tmp_path / "state", first.settings()) as group:
        assert group.proved_by("p256") == ["m1"]
        shutil.rmtree(first.directory / "tokens")
        shutil.copytree(second.directory / "tokens", first.directory / "tokens")
        await group.members[0].restart()
        await until(lambda: group.members[0].starts == 2 and group.members[0].serving, "the member is up again")
        assert group.proved_by("p256") == []
        assert "public keys differ" in group.problems("p256")["m1"]


async def test_a_proof_that_failed_for_a_moment(
    softhsm_module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that the HSM could not sign with while its member started is served soon after, without an operator."""
    own = await make_store(tmp_path / "own", {"p256": "p256"})
    (token,) = (own.directory / "tokens").iterdir()
    prove = Group.prove

    async def prove_in_a_bad_moment(group: Group, member: Member, opened: wire.Opened) -> None:
        if member.starts > 1:
            return await prove(group, member, opened)
        token.rename(own.directory / "away")
        try:
            return await prove(group, member, opened)
        finally:
            (own.directory / "away").rename(token)

    monkeypatch.setattr(Group, "prove", prove_in_a_bad_moment)
    async with serving(own_keys(own), tmp_path / "state", own.settings()) as group:
        await until(lambda: group.proved_by("p256"), f"the key is served: {group.problems('p256')}", 5)


# --- choosing a member ------------------------------------------------------------------------------------------------


async def test_two_members_share_the_requests(two: Group) -> None:
    """Two members that hold a key both serve it, each about half of the requests."""
    first, second = two.members
    assert first.opened is not None
    assert second.opened is not None
    assert first.opened.partition.serial == second.opened.partition.serial
    assert two.proved_by("p256") == ["m1", "m2"]
    signatures = await asyncio.gather(*[sign(two, message=b"%d" % number) for number in range(40)])
    for number, signature in enumerate(signatures):
        assert verifies(two, signature, message=b"%d" % number)
    shares = [counted(two, "hsmitm_signatures_total", member=name, purpose="test") for name in ("m1", "m2")]
    assert sum(shares) == 40
    assert min(shares) >= 10


async def test_a_killed_member_costs_no_request(two: Group) -> None:
    """Requests that a member takes with it are made by the other one; the killed one comes back and proves its keys."""
    first = two.members[0]
    victim = pid(first)
    os.kill(victim, signal.SIGSTOP)
    calls = [asyncio.create_task(sign(two, message=b"%d" % number)) for number in range(10)]
    await until(lambda: first.in_flight and sum(call.done() for call in calls) > 2, "both members were asked")
    os.kill(victim, signal.SIGKILL)
    for number, signature in enumerate(await asyncio.gather(*calls)):
        assert verifies(two, signature, message=b"%d" % number)
    lost = counted(two, "hsmitm_signature_errors_total", member="m1", purpose="test", error="MemberLost")
    assert lost == counted(two, "hsmitm_signature_errors_total")
    assert lost > 0
    assert verifies(two, await sign(two))
    await until(lambda: two.proved_by("p256") == ["m1", "m2"], "the killed member serves again", 5)
    assert [member.transitions[State.DOWN] for member in two.members] == [1, 0]


async def test_a_key_that_is_deleted_on_one_member_costs_no_request(two: Group) -> None:
    """Requests for a key that vanished from one HSM are made by the other one, without a restart."""
    tokens = Path(two.members[1].settings.environment["SOFTHSM2_CONF"]).parent / "tokens"
    for path in tokens.glob("*/*.object"):
        if path.name != "token.object":
            path.unlink()
    for signature in await asyncio.gather(*[sign(two) for _ in range(10)]):
        assert verifies(two, signature)
    assert counted(two, "hsmitm_signatures_total", member="m1", purpose="test") == 10
    assert counted(two, "hsmitm_signature_errors_total", member="m2", error="MemberLost") > 0
    assert counted(two, "hsmitm_signature_errors_total", member="m1") == 0


async def test_a_request_waits_for_its_only_member(store: Store, tmp_path: Path) -> None:
    """With one member, a request that comes while its process is replaced waits for that and succeeds."""
    async with serving(own_keys(store), tmp_path / "state", store.settings()) as group:
        (member,) = group.members
        await member.restart()
        assert group.proved_by("p256") == []
        assert verifies(group, await sign(group))
        assert member.starts == 2


async def test_no_member_is_in_service(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any member a request fails after a moment, and says of each member why it is out of service."""
    monkeypatch.setattr(group_module, "WAIT_FOR_MEMBER_S", 0.2)
    nowhere = MemberSettings(
        name="m2", module=str(tmp_path / "missing.so"), selector=wire.Selector(label="x"),
        pin=store.settings().pin, sessions=1,
    )  # fmt: skip
    members = store.settings("m1", pin_file=tmp_path / "missing"), nowhere
    async with serving(own_keys(store), tmp_path / "state", *members) as group:
        before = time.monotonic()
        with pytest.raises(TryLaterError) as caught:
            await sign(group)
        assert 0.2 <= time.monotonic() - before < 2
    text = str(caught.value)
    assert text.startswith("no member of the HSM is in service (")
    assert f"m1: member is quarantined: cannot read the PIN file {tmp_path / 'missing'}" in text
    assert f"m2: member is quarantined: no PKCS#11 module at {tmp_path / 'missing.so'}" in text


async def test_does_not_wait_beyond_the_deadline(store: Store, tmp_path: Path) -> None:
    """A request with little time does not wait for a member longer than that."""
    settings = store.settings(pin_file=tmp_path / "missing")
    async with serving(own_keys(store), tmp_path / "state", settings) as group:
        before = time.monotonic()
        with pytest.raises(TryLaterError):
            await sign(group, timeout_s=0.1)
        assert time.monotonic() - before < 1.5


async def test_what_is_refused_is_not_asked_twice(two: Group) -> None:
    """A request that is wrong in itself is refused once, and costs no member anything."""
    with pytest.raises(RefusedError, match="a digest of 3 bytes"):
        await two.sign("p256", b"", b"abc", in_s(10), "test")
    assert counted(two, "hsmitm_signature_errors_total") == 1
    assert counted(two, "hsmitm_signature_errors_total", error="Refused") == 1
    assert [member.starts for member in two.members] == [1, 1]
    assert verifies(two, await sign(two))


async def test_a_deadline_is_not_stretched_by_a_second_try(two: Group) -> None:
    """A request that a member does not answer in time ends then; it is not begun again elsewhere."""
    stopped = [pid(member) for member in two.members]
    for process in stopped:
        os.kill(process, signal.SIGSTOP)
    try:
        before = time.monotonic()
        with pytest.raises(DeadlineError):
            await sign(two, timeout_s=0.2)
        assert time.monotonic() - before < 2
    finally:
        for process in stopped:
            os.kill(process, signal.SIGCONT)
    assert counted(two, "hsmitm_signature_errors_total") == 1
    assert verifies(two, await sign(two))


# --- bad signatures ---------------------------------------------------------------------------------------------------


async def test_a_bad_signature_never_leaves(two: Group, caplog: pytest.LogCaptureFixture) -> None:
    """A member that gives a wrong signature is restarted and proves its keys again; the caller gets a right one."""
    first = two.members[0]
    use_signature_of_another_message(first, times=1)
    signatures = await asyncio.gather(*[sign(two) for _ in range(10)])
    assert all(verifies(two, signature) for signature in signatures)
    assert counted(two, "hsmitm_signature_errors_total", member="m1", error="MemberLost") >= 1
    assert counted(two, "hsmitm_signature_errors_total", member="m2") == 0
    await until(lambda: two.proved_by("p256") == ["m1", "m2"], "the member is back", 5)
    assert (first.starts, two.members[1].starts) == (2, 1)
    assert [line for line in caplog.messages if "taken out" in line] == [
        "member m1 returned a signature that does not verify; it is taken out and restarted"
    ]


async def test_a_member_that_only_gives_bad_signatures_is_left_out(two: Group) -> None:
    """A member that goes on giving wrong signatures does not pass its proof, and serves nothing."""
    first = two.members[0]
    use_signature_of_another_message(first, times=1000)
    for signature in await asyncio.gather(*[sign(two) for _ in range(4)]):
        assert verifies(two, signature)
    await until(lambda: first.starts > 1 and first.serving, "the member is back", 5)
    for name in two.keys:
        assert two.proved_by(name) == ["m2"]
        assert "its signature of a challenge does not verify" in two.problems(name)["m1"]
    assert verifies(two, await sign(two))


async def test_a_bad_signature_of_the_only_member(store: Store, tmp_path: Path) -> None:
    """With one member, the request that met a wrong signature is made again by its next process."""
    async with serving(own_keys(store), tmp_path / "state", store.settings()) as group:
        (member,) = group.members
        use_signature_of_another_message(member, times=1)
        assert verifies(group, await sign(group))
        assert member.starts == 2
