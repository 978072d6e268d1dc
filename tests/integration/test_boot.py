"""`hsmitm run` on a machine that is up before its HSM: it begins without, says so, and needs nobody later."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.rig.port import free_port
from hsm.member.process import MemberProcess
from hsm.wire.member import Initialise
from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System, hsmitm
from tests.integration.test_status import page
from tests.softhsm import MODULE, PIN, SO_PIN, in_s
from tests.waiting import wait_until

EX_CONFIG = 78


def service_late(system: System) -> Path:
    """The library says CKR_GENERAL_ERROR to C_Initialize, as a TPM's does before its service is there."""
    return system.directory / "softhsm"


def one_of_two_away(system: System) -> Path:
    """The library shows another HSM, and not ours."""

    async def add() -> None:
        (member,) = system.config.members()
        process = await MemberProcess.spawn(member.environment)
        try:
            await process.call(Initialise(MODULE, "another", SO_PIN, PIN), in_s(20))
        finally:
            await process.end()

    (ours,) = (system.directory / "softhsm").iterdir()
    asyncio.run(add())
    return ours


@pytest.mark.parametrize(
    ("late", "why"),
    [
        (service_late, "CKR_GENERAL_ERROR (0x5) at C_Initialize"),
        (one_of_two_away, "This module shows: 'another' (serial"),
    ],
)
def test_the_hsm_comes_after_the_machine(
    softhsm_module: str, origin_ca: OriginCA, origin: OriginThread, tmp_path: Path, late: Callable[[System], Path],
    why: str,
) -> None:  # fmt: skip
    """Clients are answered by what `unavailable` says, /readyz is not ready and says why, and nothing ends; the HSM's
    member serves as soon as it is there, after one login."""
    system = System.make(tmp_path / "s", upstream_ca=origin_ca.pem, workers="1")
    system.toml.write_text(system.toml.read_text().replace('listen = ""', f'listen = "127.0.0.1:{free_port()}"'))
    place = late(system)
    away = place.rename(system.directory / "away")
    checked = hsmitm("check", "--config", str(system.toml))
    assert checked.returncode == EX_CONFIG
    (wrong,) = (line for line in checked.stdout.splitlines() if line.startswith("WRONG"))
    assert why in wrong
    with system:
        system.until_logged("no member serves the forward-trust key yet; tried again: softhsm1: ", why)
        system.until_logged(" ready: regular proxy on ")  # the status page, too
        status, said = page(system, "/readyz")
        assert (status, "no member of the HSM serves the forward-trust key" in said) == (503, True)
        # The worker hears of it with its first report; until then a client is refused in its handshake.
        early = f"https://early.test:{origin.port}/"
        wait_until(lambda: "response 502" in system.curl(early).errors, "clients are told", 10)
        (member,) = system.status().members
        assert member.state in ("down", "starting")
        assert why in member.last_error
        away.rename(place)
        wait_until(lambda: page(system, "/readyz")[0] == 200, "it is ready", 10)
        assert system.curl(f"https://late.test:{origin.port}/").ok
