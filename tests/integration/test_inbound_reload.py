"""When a worker takes over what was edited: after a reload, whatever happens to the signer or to a file meanwhile, and
never without one."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from tests.integration.harness import HSMITM
from tests.integration.inbound_system import InboundSystem, plain_origin
from tests.waiting import wait_until

SHOP, CLIENTS = "shop.example.com", "clients.example.com"
CERTIFICATE = "shop.example.com-shop.pem"


@pytest.fixture
def system(softhsm_module: str, tmp_path: Path) -> Iterator[InboundSystem]:
    """One worker with two sites of one key; the second asks clients for certificates, of CAs that it alone reads."""
    with plain_origin() as plain:
        made = InboundSystem.make_inbound(tmp_path / "s", workers="1")
        made.generate(shop="p256")
        (made.directory / "clients.pem").write_text(made.site_ca.pem)
        made.listener()
        upstream = f"http://127.0.0.1:{plain}"
        made.site(SHOP, keys=["shop"], upstream=upstream)
        made.site(
            CLIENTS, keys=["shop"], upstream=upstream, client_ca="clients.pem", client_certificates="request",
        )  # fmt: skip
        with made:
            yield made


class Visitor:
    """A client that comes back with its session."""

    def __init__(self, system: InboundSystem) -> None:
        self._system = system
        self._context = ssl.create_default_context(cafile=str(system.root))
        self._context.maximum_version = ssl.TLSVersion.TLSv1_2  # its session is there with the handshake
        self.session: ssl.SSLSession | None = None

    def serial(self) -> int:
        """The number of the certificate that a new client is shown."""
        shown, _ = self._visit(None)
        return x509.load_der_x509_certificate(shown).serial_number

    def resumes(self) -> bool:
        """Whether the session of before is taken up."""
        _, resumed = self._visit(self.session)
        return resumed

    def _visit(self, session: ssl.SSLSession | None) -> tuple[bytes, bool]:
        with (
            socket.create_connection(("127.0.0.1", self._system.port), timeout=10) as raw,
            self._context.wrap_socket(raw, server_hostname=SHOP, session=session) as tls,
        ):
            shown = tls.getpeercert(binary_form=True)
            assert shown is not None
            self.session = tls.session
            return shown, bool(tls.session_reused)


def _reload(system: InboundSystem) -> str:
    done = subprocess.run(
        [*HSMITM, "reload", "--config", str(system.toml)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _kill_signer(system: InboundSystem) -> None:
    """Kill it, and wait until the worker has reported to the next one and has what that tells."""
    (before,) = system.pids("proxy.main signer")
    reported = system.log.count("ticket key and schemes are now") + system.log.count("the sites")
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: system.worker_pids() and before not in system.pids("proxy.main signer"), "a new signer", 20)
    wait_until(
        lambda: system.log.count("ticket key and schemes are now") + system.log.count("the sites") > reported,
        "the worker took over what the new signer tells",
        10,
    )


def test_a_restarted_signer_is_no_reload(system: InboundSystem) -> None:
    """A certificate and a site that nobody reloaded do not go live because the signer was killed and came back."""
    visitor = Visitor(system)
    before = visitor.serial()
    text = system.toml.read_text()
    system.certify(CERTIFICATE, "shop", [SHOP])
    system.toml.write_text(text.replace(f'names = ["{CLIENTS}"]', 'names = ["other.example.com"]'))
    _kill_signer(system)
    assert visitor.serial() == before
    assert "unrecognized name" in system.curl("other.example.com").stderr
    assert "the sites were read again" not in system.log
    _reload(system)
    wait_until(lambda: visitor.serial() != before, "the new certificate is presented", 10)
    assert "unrecognized name" in system.curl(CLIENTS).stderr


def test_a_file_that_is_broken_does_not_keep_the_old_ticket_key(system: InboundSystem) -> None:
    """Tickets of a signer that is gone are not taken any more, whatever state the files are in at that moment."""
    visitor = Visitor(system)
    assert not visitor.resumes()
    assert visitor.resumes()
    (system.directory / "clients.pem").write_text("broken")
    _kill_signer(system)
    assert not visitor.resumes()
    assert visitor.resumes()


def test_a_reload_that_a_worker_cannot_take_over_is_tried_again(system: InboundSystem) -> None:
    """Files that a worker cannot read at a reload are said once, and taken over as soon as they are mended."""
    visitor = Visitor(system)
    before = visitor.serial()
    system.certify(CERTIFICATE, "shop", [SHOP])
    (system.directory / "clients.pem").write_text("broken")
    _reload(system)
    wait_until(lambda: "the sites stay as they were" in system.log, "the worker says what is wrong", 10)
    assert visitor.serial() == before
    (system.directory / "clients.pem").write_text(system.site_ca.pem)
    wait_until(lambda: visitor.serial() != before, "the new certificate is presented", 10)
    assert system.log.count("the sites stay as they were") == 1


def test_a_reload_that_a_worker_missed_is_caught_up(system: InboundSystem) -> None:
    """A signer that is killed right after a reload does not make a worker miss it."""
    visitor = Visitor(system)
    before = visitor.serial()
    system.certify(CERTIFICATE, "shop", [SHOP])
    (worker,) = system.pids("proxy.processes.worker")
    os.kill(worker, signal.SIGSTOP)
    try:
        assert "a new certificate of the same key" in _reload(system)
        (signing,) = system.pids("proxy.main signer")
        os.kill(signing, signal.SIGKILL)
        wait_until(lambda: signing not in system.pids("proxy.main signer"), "it is gone", 10)
    finally:
        os.kill(worker, signal.SIGCONT)
    wait_until(lambda: visitor.serial() != before, "the new certificate is presented", 15)
