"""A configuration that is read again by a running signer, and members that an operator resets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec import structs

from hsm.certificates.settings import LeafProfile
from hsm.errors import MisconfiguredError, RefusedError, TryLaterError
from hsm.member.settings import Failover
from hsm.member.states import State
from hsm.secrets.settings import PinSource
from hsm.signer.settings import SignerSettings
from hsm.signer.signer import Signer
from hsm.wire import client
from hsm.wire.admin import CODEC, Reload, Reset, Told
from hsm.wire.client import SignerClient
from hsm.wire.run_directory import ADMIN_SOCKET, WORKER_SOCKET
from hsm.wire.worker import CODEC as WORKER_CODEC
from hsm.wire.worker import Report, Reported
from tests.hsm.members import alive, copy_of, hung, sign, verifies
from tests.hsm.signers import all_up, mint, serving
from tests.softhsm import PIN, Store
from tests.waiting import until


class Configuration:
    """What stands in the file; `reread` is what the signer is given to read it again."""

    def __init__(self, settings: SignerSettings) -> None:
        self.now = settings

    def change(self, **fields: object) -> None:
        """Write it anew."""
        self.now = structs.replace(self.now, **fields)

    def reread(self) -> SignerSettings:
        """Read it again."""
        return self.now


@pytest.fixture
def twins(store: Store, tmp_path: Path) -> list[Store]:
    """Two HSMs of our own with the same keys."""
    return [copy_of(store, tmp_path / name) for name in ("one", "two")]


@pytest.fixture
def configuration(settings: SignerSettings, twins: list[Store]) -> Configuration:
    """An HA group of two members."""
    members = [store.settings(f"m{place}") for place, store in enumerate(twins, 1)]
    return Configuration(structs.replace(settings, group="ha", members=members))


@pytest.fixture
async def signer(configuration: Configuration) -> AsyncIterator[Signer]:
    """A signer with that configuration, all its members in service."""
    async with serving(configuration.now, configuration.reread) as signer:
        await all_up(signer)
        yield signer


def names(signer: Signer) -> list[str]:
    """The members, in order."""
    return [member.name for member in signer.group.members]


# --- members ----------------------------------------------------------------------------------------------------------


async def test_nothing_changed(signer: Signer) -> None:
    """A configuration that says what it said before touches nothing."""
    before = [member.pid for member in signer.group.members]
    assert await signer.reload() == ["nothing changed"]
    assert [member.pid for member in signer.group.members] == before


async def test_a_member_is_added(signer: Signer, configuration: Configuration, store: Store, tmp_path: Path) -> None:
    """A member that is added proves its keys, and serves what the others serve; they are not touched."""
    before = [member.pid for member in signer.group.members]
    third = copy_of(store, tmp_path / "three")
    configuration.change(members=[*configuration.now.members, third.settings("m3")])
    (line,) = await signer.reload()
    assert line.startswith("member m3 added: up, process ")
    assert names(signer) == ["m1", "m2", "m3"]
    assert [member.pid for member in signer.group.members][:2] == before
    assert signer.group.proved_by("trust") == ["m1", "m2", "m3"]
    await asyncio.gather(*[sign(signer.group, "trust") for _ in range(30)])
    assert signer.totals().value("hsmitm_signatures_total", member="m3", purpose="mint") > 0
    assert await signer.reload() == ["nothing changed"]


async def test_a_member_that_cannot_be_had_is_added(
    signer: Signer, configuration: Configuration, store: Store, tmp_path: Path
) -> None:
    """A member that is added and does not come up is told with the reason, and the others serve on."""
    broken = store.settings("m3", pin_file=tmp_path / "missing")
    configuration.change(members=[*configuration.now.members, broken])
    (line,) = await signer.reload()
    assert line.startswith("member m3 added: quarantined, cannot read the PIN file")
    assert signer.group.proved_by("trust") == ["m1", "m2"]


async def test_a_member_is_removed(signer: Signer, configuration: Configuration) -> None:
    """A member that is taken out answers what it has, and leaves no process; the others serve on."""
    first = signer.group.members[0]
    process, key = first.pid, signer.group.keys["trust"]
    request = key.challenge()
    configuration.change(members=configuration.now.members[1:])
    with hung(process):
        begun = asyncio.create_task(first.sign(request, time.monotonic() + 5, "mint"))
        await until(lambda: first.in_flight == 1, "a request is in flight")
        reloading = asyncio.create_task(signer.reload())
        await until(lambda: first.state is State.DRAINING, "the member drains")
        for _ in range(5):
            assert verifies(signer.group, await sign(signer.group, "trust"), "trust")
        assert not begun.done()
    assert key.verifies(request, await begun)
    assert await reloading == ["member m1 removed"]
    assert (names(signer), alive(process), first.state) == (["m2"], False, State.STOPPED)
    assert [member.name for member in signer.status().members] == ["m2"]


async def test_another_number_of_sessions(
    signer: Signer, configuration: Configuration, settings: SignerSettings
) -> None:
    """The number of sessions of a member is changed while workers are served, and no leaf fails."""
    first, second = configuration.now.members
    before = [member.pid for member in signer.group.members]
    configuration.change(members=[structs.replace(first, sessions=5), second])
    async with SignerClient(settings.run.socket(WORKER_SOCKET)) as worker:
        reloading = asyncio.create_task(signer.reload())
        while not reloading.done():
            await asyncio.gather(*[mint(worker) for _ in range(5)])
    (line,) = reloading.result()
    assert line.startswith("member m1: new sessions in process ")
    assert [member.sessions for member in signer.group.members] == [5, 2]
    assert [member.pid == process for member, process in zip(signer.group.members, before, strict=True)] == [
        False,
        True,
    ]
    totals = signer.totals()
    assert totals.value("hsmitm_mints_total") == totals.value("hsmitm_mints_total", result="minted")


async def test_settings_that_do_not_work(signer: Signer, configuration: Configuration, tmp_path: Path) -> None:
    """A member whose new settings do not work keeps its old sessions, and the operator reads why."""
    first, second = configuration.now.members
    broken = structs.replace(first, pin=PinSource(file=str(tmp_path / "missing")))
    configuration.change(members=[broken, second])
    (line,) = await signer.reload()
    assert line.startswith("member m1: not changed: cannot read the PIN file")
    member = signer.group.members[0]
    assert (member.state, member.starts, member.settings) == (State.UP, 2, first)
    assert verifies(signer.group, await sign(signer.group, "trust"), "trust")


async def test_a_quarantined_member_gets_another_try(configuration: Configuration, twins: list[Store]) -> None:
    """A member that waits for an operator is tried again by a reload, and is up once the PIN in its file is right."""
    twins[0].pin_file.write_text("wrong-pin")
    async with serving(configuration.now, configuration.reread) as signer:
        first = signer.group.members[0]
        await until(lambda: first.state is State.QUARANTINED, "the PIN is refused")
        (line,) = await signer.reload()
        assert line.startswith(
            "member m1: not changed: member m1 is quarantined: the partition refused this PIN before"
        )
        twins[0].pin_file.write_text(PIN)
        assert await signer.reload() == ["member m1: it was quarantined and is up again"]
        assert signer.group.proved_by("trust") == ["m1", "m2"]


# --- the group --------------------------------------------------------------------------------------------------------


async def test_times_and_tries(signer: Signer, configuration: Configuration, caplog: pytest.LogCaptureFixture) -> None:
    """Times and tries of the group change with the next request; no member is touched, and the log says what holds."""
    caplog.set_level("INFO", "hsmitm.signer")
    failover = Failover(auto_recovery_retry=7, attempt_timeout_s=0.25, budget_s=2, keep_alive_s=3)
    configuration.change(failover=failover)
    lines = await signer.reload()
    assert lines == ["[hsm] now: auto_recovery_retry 7, attempt_timeout_ms 250, request_budget_ms 2000, keep_alive_s 3"]
    assert caplog.messages == [f"reload: {lines[0]}"]
    assert signer.group.failover == failover
    assert signer.status().group.auto_recovery_retry == 7
    assert [member.starts for member in signer.group.members] == [1, 1]


async def test_what_workers_do_without_a_member(
    signer: Signer, configuration: Configuration, settings: SignerSettings
) -> None:
    """What workers shall do while no member is in service reaches them with the answer to their next report."""
    configuration.change(unavailable="queue:3000", outage_grace_s=3.0)
    assert "[hsm] now: unavailable queue:3000" in await signer.reload()
    assert signer.group.outage_grace_s == 3
    told = await client.ask(settings.run.socket(WORKER_SOCKET), WORKER_CODEC, Report(1, 0, 0.0, [], 0, []), 10)
    assert isinstance(told, Reported)
    assert (told.in_service, told.unavailable) == (True, "queue:3000")


async def test_what_needs_a_new_start(signer: Signer, configuration: Configuration) -> None:
    """What cannot change while the signer runs is named, and left as it is."""
    configuration.change(profile=LeafProfile(days=8), group="other")
    assert await signer.reload() == [
        f"{what} changed, and takes effect when hsmitm is started again"
        for what in ("[forward] leaf_days", "[hsm] high_availability or group")
    ]
    assert signer._reloading.settings.profile == LeafProfile()
    assert signer.status().group.name == "ha"


async def test_what_is_not_the_signers_is_told_of(signer: Signer, configuration: Configuration) -> None:
    """A change that other processes read only at their start, or that workers take over by themselves, is not called
    nothing; the first is told of again until the start, the second once."""
    configuration.change(at_start={"[log]": "debug"}, for_workers="a site")
    later = "[log] changed, and takes effect when hsmitm is started again"
    assert await signer.reload() == [
        "what workers read has changed: each takes it over with its next report, within seconds",
        later,
    ]
    assert await signer.reload() == [later]
    configuration.change(at_start={})
    assert await signer.reload() == ["nothing changed"]


# --- what changes nothing ---------------------------------------------------------------------------------------------


async def test_a_configuration_that_is_wrong(
    signer: Signer, configuration: Configuration, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A configuration that is wrong changes nothing, and the operator reads what is wrong with it."""
    before = signer._reloading.settings

    def wrong() -> SignerSettings:
        raise MisconfiguredError("hsmitm.toml: hsm.members: two members have the same name")

    with monkeypatch.context() as patched:
        patched.setattr(signer._reloading, "_reread", wrong)
        with pytest.raises(MisconfiguredError, match="two members have the same name"):
            await signer.reload()
    assert signer.registry.get_sample_value("hsmitm_config_reload_failed") == 1
    assert (names(signer), signer._reloading.settings) == (["m1", "m2"], before)
    assert verifies(signer.group, await sign(signer.group, "trust"), "trust")
    await signer.reload()
    assert signer.registry.get_sample_value("hsmitm_config_reload_failed") == 0


async def test_a_pin_that_nobody_can_type(signer: Signer, configuration: Configuration, store: Store) -> None:
    """A new member whose PIN must be typed is refused, and the rest of that configuration with it."""
    typed = structs.replace(store.settings("m3"), pin=PinSource(prompt=True))
    configuration.change(members=[configuration.now.members[0], typed], failover=Failover(auto_recovery_retry=7))
    with pytest.raises(MisconfiguredError, match="member m3: a PIN from a prompt needs a start on a terminal"):
        await signer.reload()
    assert (names(signer), signer.group.failover) == (["m1", "m2"], Failover())


async def test_a_signer_without_a_file(settings: SignerSettings) -> None:
    """A signer that was given no configuration to read again says so."""
    async with serving(settings) as signer:
        with pytest.raises(RefusedError, match="no configuration to read again"):
            await signer.reload()


# --- by the command line ----------------------------------------------------------------------------------------------


async def test_the_command_line_reloads_and_resets(
    signer: Signer, configuration: Configuration, settings: SignerSettings
) -> None:
    """The command line has the configuration read again, and members reset, one or all; workers may do neither."""
    admin, worker = settings.run.socket(ADMIN_SOCKET), settings.run.socket(WORKER_SOCKET)
    assert await client.ask(admin, CODEC, Reload(), 10) == Told(["nothing changed"])
    told = await client.ask(admin, CODEC, Reset("m2"), 10)
    assert isinstance(told, Told)
    assert [member.starts for member in signer.group.members] == [1, 2]
    told = await client.ask(admin, CODEC, Reset(), 10)
    assert isinstance(told, Told)
    assert [line.partition(":")[0] for line in told.lines] == ["m1", "m2"]
    assert [member.starts for member in signer.group.members] == [2, 3]
    with pytest.raises(MisconfiguredError, match="there is no member 'm3'; known are m1, m2"):
        await client.ask(admin, CODEC, Reset("m3"), 10)
    for body in (Reload(), Reset()):
        with pytest.raises(TryLaterError, match="closed the connection"):
            await client.ask(worker, WORKER_CODEC, body, 10)
    assert [member.starts for member in signer.group.members] == [2, 3]


async def test_a_command_line_that_leaves(
    signer: Signer, configuration: Configuration, settings: SignerSettings
) -> None:
    """A reload whose command line is interrupted is made to its end: half a reload is none."""
    first = signer.group.members[0]
    process = first.pid
    configuration.change(members=configuration.now.members[1:], failover=Failover(auto_recovery_retry=7))
    with hung(process):
        begun = asyncio.create_task(first.sign(signer.group.keys["trust"].challenge(), time.monotonic() + 5, "mint"))
        await until(lambda: first.in_flight == 1, "a request is in flight")
        asking = asyncio.create_task(client.ask(settings.run.socket(ADMIN_SOCKET), CODEC, Reload(), 10))
        await until(lambda: first.state is State.DRAINING, "the member drains")
        asking.cancel()
        await until(lambda: not signer._admins, "the command line is gone")
    await begun
    await until(lambda: signer.group.failover.auto_recovery_retry == 7, "the reload ends")
    assert (names(signer), alive(process)) == (["m2"], False)


async def test_two_reloads_at_once(signer: Signer, configuration: Configuration, store: Store, tmp_path: Path) -> None:
    """Two operators who reload at once do the work once."""
    third = copy_of(store, tmp_path / "three")
    configuration.change(
        members=[*configuration.now.members, third.settings("m3")], failover=Failover(auto_recovery_retry=7)
    )
    first, second = await asyncio.gather(signer.reload(), signer.reload())
    assert [line.partition(" 7")[0].partition(": up")[0] for line in first] == [
        "member m3 added",
        "[hsm] now: auto_recovery_retry",
    ]
    assert second == ["nothing changed"]
    assert names(signer) == ["m1", "m2", "m3"]


async def test_a_reload_and_a_reset_take_turns(signer: Signer, configuration: Configuration) -> None:
    """While a reload gives one member other sessions, a reset leaves the other alone, and the other way round."""
    members = signer.group.members
    at_once: list[int] = []

    async def watch() -> None:
        while True:
            at_once.append(sum(one._starter.pid > 0 for one in members))
            await asyncio.sleep(0)

    watching = asyncio.create_task(watch())
    configuration.change(members=[structs.replace(one, sessions=3) for one in configuration.now.members])
    lines, told = await asyncio.gather(signer.reload(), signer.group.reset(None))
    watching.cancel()
    assert max(at_once) == 1
    assert len(lines) == len(told) == 2
    assert [member.settings.sessions for member in members] == [3, 3]
    assert [member.starts for member in members] == [3, 3]
