"""HA groups of different vendors' modules, which hold the same RSA keys under labels and ids of their own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path
from ssl import TLSVersion

import pytest

from bench.rig.visits import Visitors
from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread
from tests.integration.inbound_system import plain_origin
from tests.modules.module_system import ModuleSystem
from tests.modules.nss import Nss
from tests.modules.opencryptoki import OpenCryptoki
from tests.modules.p11_kit import P11Kit
from tests.modules.softhsm import SoftHSM
from tests.modules.tpm import Tpm
from tests.modules.vendor import Vendor
from tests.modules.vendors import prepared
from tests.waiting import until

pytestmark = pytest.mark.modules

_PAIRS = [(SoftHSM, OpenCryptoki), (P11Kit, Nss), (Tpm, SoftHSM)]
_CONNECTIONS = 1000


@pytest.mark.parametrize("kinds", _PAIRS, ids=lambda kinds: "-".join(kind.name for kind in kinds))
def test_two_kinds(
    kinds: tuple[type[Vendor], ...], softhsm_module: str, origin: OriginThread, origin_ca: OriginCA, tmp_path: Path
) -> None:
    """Clients notice nothing when the process of one member is killed, then that of the other."""
    with prepared(*kinds) as vendors, ModuleSystem.of_group(vendors, tmp_path / "system", origin_ca.pem) as system:
        system.until_up()
        faults = [lambda one=one: _kill(system, one.name) for one in vendors]
        errors = asyncio.run(_visited(system, origin.port, 100, faults))
        assert errors == []


def test_four_vendors(softhsm_module: str, origin: OriginThread, origin_ca: OriginCA, tmp_path: Path) -> None:
    """A thousand connections through a stopped process, two killed ones and a killed daemon: none fails.

    Beside them clients of a site of ours come, with TLS 1.2 and 1.3.
    """
    with prepared(SoftHSM, OpenCryptoki, Nss, Tpm) as vendors, plain_origin() as behind:
        tpm = vendors[-1]
        made = ModuleSystem.of_group(vendors, tmp_path / "system", origin_ca.pem)
        made.import_key_everywhere("site")
        made.listener()
        made.site("group.test", keys=["softhsm-site"], upstream=f"http://127.0.0.1:{behind}")
        with made as system:
            system.until_up()
            faults: list[Callable[[], object]] = [
                lambda: system.signal("softhsm", signal.SIGSTOP),
                lambda: _kill(system, "opencryptoki"),
                lambda: _kill(system, "nss"),
                tpm.kill,
                tpm.revive,
            ]
            errors = asyncio.run(_visited(system, origin.port, _CONNECTIONS, faults, site="group.test"))
            assert errors == []
            system.until_up()


def _kill(system: ModuleSystem, name: str) -> None:
    """The member's process is killed once it, and all others, serve: two faults at the same time are another test."""
    system.until_up()
    system.signal(name, signal.SIGKILL)


async def _visited(
    system: ModuleSystem, port: int, number: int, faults: list[Callable[[], object]], site: str = ""
) -> list[str]:
    """What went wrong in so many connections, with the faults spread over them; a fifth as many to the site beside."""
    proxy = await asyncio.to_thread(lambda: system.proxy)
    async with Visitors(proxy, system.ca, port, 8) as visitors:
        clients = asyncio.create_task(_clients(system, site, number // 10)) if site else None
        for place, fault in enumerate(faults, 1):
            goal = number * place // (len(faults) + 1)
            await until(lambda goal=goal: len(visitors.visits) >= goal, f"{goal} connections", 60)
            await asyncio.to_thread(fault)
        await until(lambda: len(visitors.visits) >= number, f"{number} connections", 60)
        errors = await clients if clients else []
    return [*errors, *(visit.error for visit in visitors.visits if visit.error)]


async def _clients(system: ModuleSystem, site: str, number: int) -> list[str]:
    errors = []
    for version in (TLSVersion.TLSv1_2, TLSVersion.TLSv1_3):
        errors += await system.each_client(site, version, number, at_once=1)
    return errors
