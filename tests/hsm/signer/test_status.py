"""What the signer tells of itself, of its members and of its workers."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import cast

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from msgspec import structs
from prometheus_client import CollectorRegistry, Counter, Gauge

from hsm.errors import RefusedError
from hsm.member.settings import Failover
from hsm.signer.settings import SignerSettings
from hsm.signer.signer import Signer
from hsm.wire import client, endpoint, telemetry
from hsm.wire.admin import CODEC, GroupStatus, Info, InfoReport, ListenerStatus, Status, StatusReport, WorkerStatus
from hsm.wire.client import SignerClient
from hsm.wire.run_directory import ADMIN_SOCKET, WORKER_SOCKET
from hsm.wire.worker import Authority, Report, Reported
from tests.hsm.members import copy_of, kill
from tests.hsm.signers import all_up, mint, serving
from tests.softhsm import PIN, Store
from tests.waiting import until

# --- what it tells ----------------------------------------------------------------------------------------------------


def report(index: int, hits: int, flows: int, started: float = 1000.0) -> Report:
    """A worker's report with a counter and a gauge."""
    registry = CollectorRegistry()
    lookups = Counter("hsmitm_leaf_cache_lookups", "Look-ups", ("result",), registry=registry)
    lookups.labels("hit").inc(hits)
    Gauge("hsmitm_connections_open", "Open", registry=registry).set(flows)
    return Report(4000 + index, index, started, ["127.0.0.1:8080"], flows, telemetry.collect(registry))


def processes(monkeypatch: pytest.MonkeyPatch, *pids: int) -> None:
    """The kernel says of connections from here on that they are these processes', one after another."""
    following = iter(pids)
    monkeypatch.setattr(endpoint, "peer", lambda _: (next(following), os.getuid()))


def shown(signer: Signer) -> tuple[float, float, float]:
    """Cache hits, flows and workers."""
    totals = signer.totals()
    hits = totals.value("hsmitm_leaf_cache_lookups_total", result="hit")
    return hits, totals.value("hsmitm_connections_open"), totals.value("hsmitm_workers")


async def test_totals_never_fall(signer: Signer, settings: SignerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker counted stays in the totals when it ends; its gauges end with it."""
    processes(monkeypatch, 1000, 1001, 1002)
    path = settings.run.socket(WORKER_SOCKET)
    async with SignerClient(path) as first:
        await first.call(report(0, hits=10, flows=3), 10)
        async with SignerClient(path) as second:
            await second.call(report(1, hits=5, flows=2), 10)
            assert shown(signer) == (15, 5, 2)
            await second.call(report(1, hits=6, flows=1), 10)
            assert shown(signer) == (16, 4, 2)
        await until(lambda: len(signer._workers) == 1, "the signer noticed that the worker is gone")
        assert shown(signer) == (16, 3, 1)
        async with SignerClient(path) as third:
            await third.call(report(1, hits=1, flows=1, started=2000.0), 10)
            assert shown(signer) == (17, 4, 2)
    await until(lambda: not signer._workers, "the signer noticed that all workers are gone")
    assert shown(signer) == (17, 0, 0)


async def test_a_worker_that_connects_again_is_counted_once(signer: Signer, settings: SignerSettings) -> None:
    """A worker whose connection was lost and made again adds nothing twice to the totals."""
    path = settings.run.socket(WORKER_SOCKET)
    for hits in (10, 11):
        async with SignerClient(path) as worker:
            await worker.call(report(0, hits=hits, flows=1), 10)
            assert shown(signer) == (hits, 1, 1)
        await until(lambda: not signer._workers, "the signer noticed that the connection is gone")
    assert shown(signer) == (11, 0, 0)


async def test_status(signer: Signer, worker: SignerClient, settings: SignerSettings, store: Store) -> None:
    """The command line gets the whole state: members, workers, listeners, certificates and counters."""
    await mint(worker)
    with pytest.raises(RefusedError):
        await mint(worker, "*.com")
    await worker.call(report(0, hits=10, flows=3), 10)
    status = await client.ask(settings.run.socket(ADMIN_SOCKET), CODEC, Status(), 10)
    assert isinstance(status, StatusReport)
    (member,) = status.members
    assert (member.name, member.state, member.starts) == ("m1", "up", 1)
    assert (member.sessions_busy, member.sessions_total) == (0, 2)
    assert member.pid == signer.group.members[0].pid
    assert (member.attempts, member.next_attempt, member.last_error, member.last_error_at) == (0, 0, "", 0)
    assert 0 < member.latency_ms < 1000
    assert member.keys == {"trust": "", "untrust": ""}
    assert status.group == GroupStatus(state="healthy", since=signer.group.since)
    assert member.module == store.settings().module
    assert member.partition is not None
    assert (member.partition.label, member.partition.manufacturer) == ("tests", "SoftHSM project")
    assert abs(member.since - time.time()) < 60
    assert status.workers == [WorkerStatus(index=0, pid=os.getpid(), started=1000.0, connections=3)]
    assert status.listeners == [ListenerStatus("127.0.0.1:8080", 1)]
    trust, untrust = status.certificates
    assert (trust.name, trust.subject, trust.key_type) == ("trust", "CN=p256 CA", "P-256")
    assert (untrust.name, untrust.subject, untrust.key_type) == ("untrust", "CN=rsa CA", "RSA-2048")
    for one in (trust, untrust):
        ca = x509.load_pem_x509_certificate(settings.authorities[cast(Authority, one.name)].certificate.read_bytes())
        assert one.fingerprint_sha256 == ca.fingerprint(hashes.SHA256()).hex()
        assert one.not_after == ca.not_valid_after_utc.timestamp()
        assert (one.proved, one.guarded, one.problems) == (["m1"], True, {})
    assert trust.key == "pkcs11:object=p256;type=private"
    counters = status.counters
    assert (counters["minted"], counters["mint_errors"]) == (1, 1)
    assert (counters["signatures"], counters["signature_errors"]) == (3, 0)  # two proofs and the leaf
    assert counters["test_signatures"] == 1
    assert counters["signature_seconds"] > 0
    assert (counters["cache_hits"], counters["cache_misses"]) == (10, 0)
    assert PIN not in repr(status)


async def test_status_of_a_signer_in_trouble(settings: SignerSettings, store: Store, tmp_path: Path) -> None:
    """The state of a member that is out of service says why, and its keys say who does not serve them."""
    members = [store.settings("good"), store.settings("broken", pin_file=tmp_path / "missing")]
    async with serving(structs.replace(settings, members=members)) as signer:
        good, broken = signer.status().members
        assert (good.state, broken.state) == ("up", "quarantined")
        assert broken.reason == f"cannot read the PIN file {tmp_path / 'missing'}: No such file or directory"
        assert (broken.partition, broken.sessions_total, broken.pid) == (None, 0, 0)
        assert broken.last_error == broken.reason
        assert abs(broken.last_error_at - time.time()) < 60
        assert broken.keys["trust"] == f"member is quarantined: {broken.reason}"
        assert (signer.status().group.state, signer.status().group.high_availability) == ("last", False)
        for certificate in signer.status().certificates:
            assert certificate.proved == ["good"]
            assert list(certificate.problems) == ["broken"]
        totals = signer.totals()
        assert totals.value("hsmitm_member_state", member="broken", state="quarantined") == 1
        assert totals.value("hsmitm_member_state", member="broken") == 1
        assert totals.value("hsmitm_member_state", member="good", state="up") == 1
        assert totals.value("hsmitm_group_state", state="last") == 1
        assert totals.value("hsmitm_group_state") == 1


async def test_status_of_a_group(settings: SignerSettings, store: Store, tmp_path: Path) -> None:
    """The state of an HA group is told with its name and with what the operator chose for it."""
    ha = structs.replace(
        settings,
        members=[store.settings("m1"), copy_of(store, tmp_path / "two").settings("m2")],
        group="ha",
        failover=Failover(auto_recovery_retry=3),
        unavailable="cached-only",
    )
    async with serving(ha) as signer:
        await all_up(signer)
        group = signer.status().group
        assert group == GroupStatus(
            name="ha",
            state="healthy",
            since=group.since,
            high_availability=True,
            auto_recovery_retry=3,
            unavailable="cached-only",
        )
        assert [one.proved for one in signer.status().certificates] == [["m1", "m2"]] * 2


async def test_the_modules_are_told(settings: SignerSettings, store: Store, tmp_path: Path) -> None:
    """The command line learns what each member's module says of its slots, or why it says nothing."""
    members = [store.settings("good"), store.settings("broken", pin_file=tmp_path / "missing")]
    async with serving(structs.replace(settings, members=members)):
        told = await client.ask(settings.run.socket(ADMIN_SOCKET), CODEC, Info(), 10)
        assert isinstance(told, InfoReport)
        assert list(told.modules) == ["good"]
        labels = [slot.partition.label for slot in told.modules["good"].slots]
        assert store.label in labels
        assert list(told.problems) == ["broken"]
        assert "member is quarantined: cannot read the PIN file" in told.problems["broken"]


async def test_workers_are_told_of_an_outage(settings: SignerSettings, store: Store, tmp_path: Path) -> None:
    """A worker's report is answered with whether the HSM is in service: after a while without, and again with it."""
    own = copy_of(store, tmp_path / "own")
    impatient = structs.replace(
        settings,
        members=[own.settings()],
        failover=Failover(attempt_timeout_s=0.2, budget_s=0.4),
        unavailable="cached-only",
    )
    async with serving(impatient) as signer, SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:

        async def in_service() -> bool:
            again = time.monotonic() + 0.03
            await until(lambda: time.monotonic() > again, "nobody reports all the time")
            told = await worker.call(report(0, hits=0, flows=0), 10)
            assert isinstance(told, Reported)
            assert told.unavailable == "cached-only"
            return told.in_service

        assert await in_service()
        away = own.pin_file.rename(tmp_path / "away")
        kill(signer.group.members[0])
        await until(lambda: not signer.group.proved_by("trust"), "the member is gone")
        assert await in_service()
        begun = time.monotonic()
        while await in_service():
            assert time.monotonic() - begun < 5
        assert time.monotonic() - begun >= 0.2
        away.rename(own.pin_file)
        begun = time.monotonic()
        while not await in_service():
            assert time.monotonic() - begun < 5
        await mint(worker)
