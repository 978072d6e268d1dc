"""Every field of the signer's settings, changed: a reload takes it over or says that it waits for a new start."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from hsm.certificates.settings import LeafProfile
from hsm.codes import Kind
from hsm.effect import AtReload, AtStart, EachAtStart, Effect, effect_of, marked
from hsm.secrets.settings import PinSource
from hsm.signer import reload as reload_module
from hsm.signer.settings import SignerSettings
from hsm.uri import KeyURI
from hsm.wire.member import Selector
from tests.fields import paths, replaced
from tests.hsm.members import copy_of
from tests.hsm.signers import all_up, serving
from tests.hsm.sites import site_of
from tests.softhsm import PIN, Store

LATER = "takes effect when hsmitm is started again"


def changes(directory: Path, serial: str) -> dict[str, Any]:
    """Another value for each field, or how it comes of the one that stands there. `serial` is the partition's."""
    return {
        "members.name": "m3",
        "members.module": lambda old: f"{Path(old).parent}/./{Path(old).name}",
        "members.selector": Selector(serial=serial),
        "members.pin": PinSource(command=["echo", PIN]),
        "members.sessions": 3,
        "members.environment": lambda old: old | {"ANOTHER": "value"},
        "members.base": directory,
        "members.start_timeout_s": 30.0,
        "members.codes": {0x80000383: Kind.BUSY},
        "members.user_type": 0x80000001,
        "members.read_write": True,
        "inbound.site": "another.example.com",
        "inbound.certificate": lambda old: old.rename(directory / "renamed.pem"),
        "inbound.key": KeyURI(token="tests", object="blog"),
        "inbound.decrypt": True,
        "inbound.holder": "m1",
        "failover.auto_recovery_retry": 7,
        "failover.attempt_timeout_s": 0.25,
        "failover.budget_s": 2.0,
        "failover.keep_alive_s": 3.0,
        "unavailable": "cached-only",
        "outage_grace_s": 3.0,
        "quotas.mints_per_s": 300.0,
        "quotas.decryptions_per_s": 30.0,
        "for_workers": "a site",
        "group": "other",
        "authorities.certificate": directory / "ca.pem",
        "authorities.key": KeyURI(object="blog"),
        "holders": {"trust": "m1"},
        "profile.days": 8,
        "run.path": directory / "run",
        "run.group": "root",
        "state": directory / "elsewhere",
        "users": frozenset({4711}),
        "monitors": frozenset({4711}),
        "at_start": {"[log]": "debug"},
    }


WHOLE = (Selector, PinSource, KeyURI)
FIELDS = list(paths(SignerSettings, WHOLE))


@pytest.fixture
def grouped(sites_store: Store, sites_settings: SignerSettings, tmp_path: Path) -> SignerSettings:
    """An HA group of two members, with both CAs and one site."""
    twins = [copy_of(sites_store, tmp_path / name) for name in ("one", "two")]
    members = [store.settings(f"m{place}") for place, store in enumerate(twins, 1)]
    return structs.replace(
        sites_settings, group="ha", members=members, inbound=[site_of(sites_store, "blog", tmp_path)]
    )


def test_each_field_says_when_a_change_takes_effect() -> None:
    """A setting of the signer cannot be added without saying what a reload does with it, and how to call it."""
    effects = [effect_of(field.type) for field in structs.fields(SignerSettings)]
    assert all(isinstance(one, AtStart | AtReload | EachAtStart) for one in effects)
    assert all(one.where.startswith("[") for one in effects if isinstance(one, AtStart | AtReload))


async def test_each_field_is_taken_over_or_named(grouped: SignerSettings, tmp_path: Path) -> None:
    """Whatever an operator changes, a reload either takes it over and says so, or says that it waits for a new start:
    never both, and never that nothing changed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    now = grouped
    async with serving(grouped, lambda: now) as signer:
        await all_up(signer)
        partition = signer.status().members[0].partition
        assert partition is not None
        table = changes(elsewhere, partition.serial)
        assert list(table) == FIELDS, "a new field: say here how it may change"
        for path, new in table.items():
            before = signer._reloading.settings
            now = replaced(before, path, new)
            assert now != before, path
            lines = await signer.reload()
            later = [line for line in lines if line.endswith(LATER)]
            (field,) = [one for one in structs.fields(SignerSettings) if one.name == path.partition(".")[0]]
            taken = getattr(signer._reloading.settings, field.name) == getattr(now, field.name)
            if isinstance(effect_of(field.type), AtReload):
                assert (bool(lines), later, taken) == (True, [], True), (path, lines)
                assert "nothing changed" not in lines, path
                if path == "members.user_type":  # whom SoftHSM does not know: its login fails
                    now = before
                    await signer.reload()
            else:
                assert (len(lines), lines, taken) == (1, later, False), (path, lines)
                assert signer._reloading.settings == before, path


async def test_members_in_another_order(grouped: SignerSettings) -> None:
    """Members that stand in another order in the file are shown in that order, and the operator is told."""
    now = grouped
    async with serving(grouped, lambda: now) as signer:
        await all_up(signer)
        now = structs.replace(grouped, members=grouped.members[::-1])
        assert await signer.reload() == ["[[hsm.members]] changed, and is taken over"]
        assert [one.name for one in signer.status().members] == ["m2", "m1"]
        assert [one.starts for one in signer.status().members] == [1, 1]
        assert await signer.reload() == ["nothing changed"]


async def test_high_availability_waits_for_a_start(grouped: SignerSettings) -> None:
    """Turning high availability off waits for a new start, and whose each key is does so with it."""
    now = grouped
    async with serving(grouped, lambda: now) as signer:
        await all_up(signer)
        inbound = [structs.replace(one, holder="m1") for one in grouped.inbound]
        now = structs.replace(grouped, group="", holders={"trust": "m1", "untrust": "m1"}, inbound=inbound)
        assert await signer.reload() == [f"[hsm] high_availability or group changed, and {LATER}"]
        key = signer.inbound.sites.sites[0].key
        assert (signer.group.keys[key].members, signer.group.proved_by(key)) == (None, ["m1", "m2"])


async def test_a_field_that_nobody_takes_over(grouped: SignerSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting that says "at reload", and that no code takes over, ends the reload instead of being forgotten."""

    def wrongly(settings: SignerSettings) -> Iterator[tuple[str, Effect, Any]]:
        for name, effect, value in marked(settings):
            yield name, AtReload("[forward] leaf_days") if name == "profile" else effect, value

    monkeypatch.setattr(reload_module, "marked", wrongly)
    now = structs.replace(grouped, profile=LeafProfile(days=8))
    async with serving(grouped, lambda: now) as signer:
        with pytest.raises(NotImplementedError, match=r"SignerSettings.profile is to be taken over"):
            await signer.reload()
