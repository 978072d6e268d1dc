"""What every module must do on its own token: forward and inbound, RSA and EC, TLS 1.2 and 1.3, load, loss."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from os import EX_CONFIG
from pathlib import Path
from ssl import TLSVersion

import pytest

from bench.rig.quirks_module import QuirksModule
from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread
from tests.integration.inbound_system import plain_origin
from tests.modules.module_system import ModuleSystem
from tests.modules.vendor import Vendor
from tests.modules.vendors import VENDORS, prepared
from tests.waiting import wait_until

pytestmark = pytest.mark.modules


@pytest.fixture(scope="module", params=VENDORS, ids=lambda kind: kind.name)
def vendor(request: pytest.FixtureRequest) -> Iterator[Vendor]:
    """A module with its token and its daemons."""
    with prepared(request.param) as (made,):
        yield made


@pytest.fixture(scope="module")
def system(
    vendor: Vendor, softhsm_module: str, origin_ca: OriginCA, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModuleSystem]:
    """`hsmitm run` on it, after `hsmitm init`, with sites."""
    made = ModuleSystem.by_init(vendor, tmp_path_factory.mktemp(vendor.name), origin_ca.pem)
    types = {"rsa": "rsa-2048"} | ({"ec": "p256"} if vendor.ec else {})
    for name, key_type in types.items():
        made.add_key(f"site-{name}", key_type)
    if vendor.ec:
        made.use_ec_for_untrusted()
    with plain_origin() as behind:
        made.listener()
        for name in types:
            made.site(f"{name}.test", keys=[f"site-{name}"], upstream=f"http://127.0.0.1:{behind}")
        with made:
            yield made


def test_check(system: ModuleSystem) -> None:
    """`hsmitm check` finds everything right."""
    assert "everything is right" in system.check()


def test_forward(system: ModuleSystem, vendor: Vendor, origin: OriginThread, tmp_path: Path) -> None:
    """A client trusts the RSA CA's leaf; a server that does not verify gets one of the EC CA, where there is one."""
    assert system.through(f"https://one.test:{origin.port}/").ok
    if vendor.ec:
        with OriginThread(OriginCA()) as stranger:
            trusted = system.directory / "untrust-imported.pem"
            shown = system.through(f"https://two.test:{stranger.port}/", trust=trusted)
            assert shown.exit == 0, shown.errors
            assert "issuer: CN=EC CA" in shown.trace


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_inbound(system: ModuleSystem, vendor: Vendor, version: str) -> None:
    """Clients of our own sites get in with both versions of TLS, to an RSA key and to an EC key."""
    for name in ("rsa", "ec") if vendor.ec else ("rsa",):
        done = system.curl(f"{name}.test", "/", "--tls-max", version, f"--tlsv{version}")
        assert (done.returncode, done.stderr) == (0, ""), name
        assert "GET / HTTP" in done.stdout


def test_load(system: ModuleSystem, origin: OriginThread) -> None:
    """Sixty new hosts, twelve at a time: each is served."""
    visits = system.visit(origin.port, 60)
    assert [visit.error for visit in visits if visit.error] == []


@pytest.mark.parametrize("version", [TLSVersion.TLSv1_2, TLSVersion.TLSv1_3], ids=lambda version: version.name)
def test_inbound_load(system: ModuleSystem, vendor: Vendor, version: TLSVersion) -> None:
    """Sixty full handshakes with each of our sites, twelve at a time: each client gets its page."""
    for name in ("rsa", "ec") if vendor.ec else ("rsa",):
        assert system.clients(f"{name}.test", version, 60) == [], name


def test_the_member_is_killed(system: ModuleSystem, vendor: Vendor, origin: OriginThread) -> None:
    """A killed process is replaced, and serves with every key."""
    before = system.signal("hsm1", signal.SIGKILL)
    wait_until(lambda: system.of("hsm1").pid not in {0, before}, "another process")
    system.until_up()
    assert system.through(f"https://three.test:{origin.port}/").ok


def test_what_answers_is_killed_and_comes_back(system: ModuleSystem, vendor: Vendor, origin: OriginThread) -> None:
    """The daemon behind the module dies, and is started again: hsmitm goes on without anybody's help."""
    vendor.kill()
    try:
        system.through(f"https://four.test:{origin.port}/", "--max-time", "3")
    finally:
        vendor.revive()
    wait_until(lambda: system.through(f"https://five.test:{origin.port}/").ok, "it serves again", 30)
    system.until_up()


def test_a_wrong_pin_is_tried_once(system: ModuleSystem, vendor: Vendor, tmp_path: Path) -> None:
    """`check` finds it out, and two starts of the signer remember: the HSM has seen one login."""
    counter = QuirksModule(tmp_path / "counter")
    pin = tmp_path / "wrong-pin"
    pin.write_text("pin0815\n")
    pin.chmod(0o600)
    wrong = system.copied(
        tmp_path / "wrong", module=str(counter.path), pin={"file": str(pin)},
        environment=vendor.environment | counter.environment(vendor.module),
    )  # fmt: skip
    assert "PIN" in wrong.check(status=EX_CONFIG)
    assert counter.calls("C_Login") == 1
    for _ in range(2):
        assert wrong.start(wait=False).process
        wait_until(lambda: wrong.process and wrong.process.poll() is not None, "the signer gives up")
        assert wrong.stop() == EX_CONFIG
    assert wrong.log.count("-> quarantined") == 2
    assert counter.calls("C_Login") == 1
    assert "pin0815" not in wrong.log
