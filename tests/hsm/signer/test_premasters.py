"""RSA key exchange through the signer's real socket: what a worker, and a client behind it, learn of a ciphertext.

Each test has two worlds: a token that says that a padding is wrong (SoftHSM on an OpenSSL before 3.2), and one that
answers bytes of its own then ("implicit rejection").
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from bench.rig.faulty_module import FaultyModule
from hsm.errors import OverloadedError, TryLaterError
from hsm.signer import premasters
from hsm.signer.premasters import CEILING_S, FLOOR_S, Pace
from hsm.signer.settings import Quotas, SignerSettings
from hsm.signer.signer import Signer
from hsm.wire.client import SignerClient
from hsm.wire.frames import Decrypted
from hsm.wire.run_directory import WORKER_SOCKET
from hsm.wire.worker import TlsDecrypt
from tests.hsm.members import kill
from tests.hsm.signers import serving
from tests.hsm.sites import badly_padded, encrypted, name_of, site_of
from tests.softhsm import MODULE, Store
from tests.waiting import until

SECRET = b"\3\3" + os.urandom(46)


@pytest.fixture
def hsm(tmp_path: Path, softhsm_module: str) -> FaultyModule:
    """The partition's module, which fails as it is told."""
    return FaultyModule(tmp_path / "hsm")


@pytest.fixture(params=["as it is", "implicit rejection"])
def settings(
    request: pytest.FixtureRequest,
    sites_settings: SignerSettings,
    sites_store: Store,
    hsm: FaultyModule,
    tmp_path: Path,
) -> SignerSettings:
    """A signer with a site that turns on RSA key exchange."""
    if request.param == "implicit rejection":
        hsm.rules("C_Decrypt implicit")
    member = sites_store.settings()
    behind = structs.replace(member, module=str(hsm.path), environment=member.environment | hsm.environment(MODULE))
    return structs.replace(
        sites_settings, members=[behind], inbound=[site_of(sites_store, "old", tmp_path, decrypt=True)],
        quotas=Quotas(decryptions_per_s=1000),
    )  # fmt: skip


@pytest.fixture
async def signer(settings: SignerSettings) -> AsyncIterator[Signer]:
    """A signer that serves."""
    async with serving(settings) as signer:
        yield signer


async def answer(worker: SignerClient, store: Store, ciphertext: bytes) -> bytes:
    """What a worker gets for a ciphertext."""
    found = await worker.call(TlsDecrypt(name_of(store, "old"), ciphertext), 10)
    assert isinstance(found, Decrypted)
    return found.plaintext


def wrong(store: Store) -> dict[str, bytes]:
    """Ciphertexts that hold no premaster secret of a client that offered TLS 1.2."""
    return badly_padded(store, "old") | {
        "nothing": encrypted(store, "old", b""),
        "a byte less": encrypted(store, "old", SECRET[:-1]),
        "a byte more": encrypted(store, "old", SECRET + b"\0"),
        "as long as can be": encrypted(store, "old", b"\3\3" + bytes(243)),
        "an older version": encrypted(store, "old", b"\3\2" + SECRET[2:]),
        "a newer version": encrypted(store, "old", b"\3\4" + SECRET[2:]),
        "no version": encrypted(store, "old", bytes(48)),
    }


async def test_every_answer_looks_like_a_secret(worker: SignerClient, sites_store: Store) -> None:
    """Whatever is wrong with a ciphertext, a worker gets 48 bytes with the right version, the same for the same
    ciphertext and others for another, as it does for a right one; it sees no plaintext that is no secret."""
    right = encrypted(sites_store, "old", SECRET)
    seen = set()
    for what, ciphertext in wrong(sites_store).items():
        first, again = [await answer(worker, sites_store, ciphertext) for _ in range(2)]
        assert (len(first), first[:2]) == (48, b"\3\3"), what
        assert first == again, what
        assert first[2:] not in (SECRET[2:], bytes(46)), what
        assert await answer(worker, sites_store, right) == SECRET
        seen.add(first)
    assert len(seen) == len(wrong(sites_store))


async def test_wrong_ciphertexts_examine_nobody(signer: Signer, worker: SignerClient, sites_store: Store) -> None:
    """A hundred wrong ciphertexts cost no test signature, no retry and no member's good name."""
    bad = list(wrong(sites_store).values())
    tests = signer.totals().value("hsmitm_signatures_total", purpose="test")
    begun = time.monotonic()
    for begun_with in range(0, 100, 4):
        await asyncio.gather(*[answer(worker, sites_store, bad[(begun_with + n) % len(bad)]) for n in range(4)])
    totals, took_s = signer.totals(), time.monotonic() - begun
    every_s = signer.group.failover.keep_alive_s
    assert totals.value("hsmitm_signatures_total", purpose="test") - tests <= took_s / every_s + 1
    assert totals.value("hsmitm_signatures_total", purpose="decrypt") == 100
    assert totals.value("hsmitm_signature_errors_total") == 0
    assert totals.value("hsmitm_signature_retries_total") == 0
    assert [(one.starts, one.last_error) for one in signer.group.members] == [(1, "")]


@pytest.mark.alone
async def test_time_tells_nothing(worker: SignerClient, sites_store: Store) -> None:
    """Of two answers, one to a right and one to a wrong ciphertext, nobody can say by their times which is which: a
    guess is right about half of the time, and what they differ by is 2 us. By the old way it was nearly always right.
    """
    ciphertexts = {
        "right": encrypted(sites_store, "old", SECRET),
        "wrong": badly_padded(sites_store, "old")["block type"],
    }
    took: dict[str, list[float]] = {"right": [], "wrong": []}
    for _ in range(250):
        for kind in random.sample(list(ciphertexts), 2):
            started = time.perf_counter()
            await answer(worker, sites_store, ciphertexts[kind])
            took[kind].append(time.perf_counter() - started)
    later = sum(wrong > right for wrong in took["wrong"] for right in took["right"])
    share = later / (len(took["wrong"]) * len(took["right"]))
    assert 0.3 < share < 0.7, f"a wrong ciphertext takes longer than a right one in {share:.0%} of all pairs"
    assert sorted(took["wrong"])[125] >= FLOOR_S


async def test_a_key_without_a_member(
    signer: Signer, worker: SignerClient, sites_store: Store, hsm: FaultyModule
) -> None:
    """What no ciphertext can bring about is still told: there is no member for the key."""
    await answer(worker, sites_store, encrypted(sites_store, "old", SECRET))
    hsm.rules("C_Initialize rv 0x30")
    kill(signer.group.members[0])
    await until(lambda: not signer.group.proved_by(name_of(sites_store, "old")), "the member is gone")
    with pytest.raises(TryLaterError, match="no member of the HSM"):
        await answer(worker, sites_store, encrypted(sites_store, "old", SECRET))


async def test_a_quota_of_decryptions(
    settings: SignerSettings, sites_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that wants more decryptions than its quota is told so, logged once, and counted; it goes on signing."""
    few = structs.replace(settings, quotas=Quotas(decryptions_per_s=1))
    bad = badly_padded(sites_store, "old")["block type"]
    async with serving(few) as signer, SignerClient(few.run.socket(WORKER_SOCKET)) as worker:
        await until(lambda: worker.connected, "the worker is connected")
        answers = await asyncio.gather(*[answer(worker, sites_store, bad) for _ in range(40)], return_exceptions=True)
        refused = [one for one in answers if isinstance(one, OverloadedError)]
        assert 28 <= len(refused) <= 30
        assert "this worker has used up its quota of decryptions (1 a second, 10 at once)" in str(refused[0])
        lines = [line for line in caplog.messages if "asks for more than its quota" in line]
        assert len(lines) == 1
        assert signer.totals().value("hsmitm_quota_refused_total", quota="decryptions") == len(refused)


def test_the_pace_follows_the_key() -> None:
    """Answers leave at a time that fits the key: never below a floor, twice what nine of ten took of late, and bounded
    whatever one stall was."""
    pace = Pace()
    assert FLOOR_S < pace.step_s < CEILING_S
    for took, step in ((0.0001, FLOOR_S), (0.02, 0.04), (3.0, CEILING_S), (0.0005, FLOOR_S)):
        for _ in range(premasters._RECENT):
            pace.took(took)
        assert pace.step_s == pytest.approx(step)
    pace.took(10.0)
    assert pace.step_s == FLOOR_S, "one stall says nothing"
