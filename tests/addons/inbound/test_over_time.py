"""A worker's own sites over time: real files, real handshakes, and a signer that tells what the test says."""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import structs
from prometheus_client import CollectorRegistry

from addons.gnutls.connection import Connection
from addons.inbound import over_time
from addons.inbound.handshakes import Handshakes, Step
from addons.inbound.over_time import InboundSites
from addons.inbound.settings import HandshakeSettings, ListenerSettings, ServerAddress, SiteCertificate, SiteSettings
from hsm.certificates.files import inbound_name
from hsm.errors import HsmitmError, MisconfiguredError, TryLaterError
from hsm.schemes import SCHEMES
from hsm.wire.worker import InboundKeys, InboundTerms, Reply, Reported, Request, TlsSign, TlsSigned
from tests.addons.gnutls.peers import AUTHORITY, NAME, Client, SoftwareKey, client_context

SETTINGS = HandshakeSettings(threads=1, handshake_s=10, signature_s=5)
RSA = [name for name in SCHEMES if name.startswith("rsa_")]


class Signer:
    """Stands in for SignerClient: tells its terms and signs, or raises `error`."""

    def __init__(self, key: SoftwareKey) -> None:
        self.key = key
        name = inbound_name(key.remote().public)
        self.told = InboundTerms({name: RSA}, secrets.token_bytes(64), terms=100, configuration=3)
        self.error: HsmitmError | None = None
        self.asked = 0

    def change(self, *, schemes: list[str] | None = None, configuration: int | None = None) -> None:
        """A new ticket key; other schemes and another configuration where they are given."""
        keys = self.told.keys if schemes is None else dict.fromkeys(self.told.keys, schemes)
        number = self.told.configuration if configuration is None else configuration
        self.told = InboundTerms(keys, secrets.token_bytes(64), self.told.terms + 1, number)

    @property
    def report(self) -> Reported:
        """Its answer to a report."""
        return Reported(True, "fail", self.told.terms, self.told.configuration)

    async def call(self, body: Request, timeout_s: float) -> Reply:
        assert timeout_s > 0
        if isinstance(body, InboundKeys):
            self.asked += 1
            if self.error is not None:
                raise self.error
            return self.told
        assert isinstance(body, TlsSign)
        return TlsSigned(self.key.sign(body.scheme, body.digest))


class World:
    """One worker with one site, and a client that comes back."""

    def __init__(self, directory: Path) -> None:
        self.file, self.ca = directory / "site.pem", directory / "clients.pem"
        self.signer = Signer(SoftwareKey("rsa"))
        self.certify()
        self.ca.write_text(AUTHORITY.pem)
        site = SiteSettings(
            names=(NAME,),
            certificates=(SiteCertificate(self.file),),
            server=ServerAddress(tls=False, host="127.0.0.1", port=9),
            client_ca=self.ca,
        )
        self.listeners = [ListenerSettings(place="127.0.0.1:443", sites=(site,), maximum="TLS1.2")]
        self.rereads = 0
        self.sites: InboundSites
        self._context = client_context(AUTHORITY, "1.2")
        self._session: ssl.SSLSession | None = None

    def certify(self) -> None:
        """A new certificate of the site's key."""
        leaf = AUTHORITY.issue(self.signer.key.private)
        self.file.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in (leaf, AUTHORITY.certificate)))

    def reread(self) -> list[ListenerSettings]:
        """The configuration's file is read."""
        self.rereads += 1
        return self.listeners

    async def start(self) -> None:
        """The worker begins."""
        self.sites = await InboundSites.start(
            self.listeners, SETTINGS, self.signer, CollectorRegistry(), reread=self.reread,  # type: ignore[arg-type]
        )  # fmt: skip

    async def hear(self) -> None:
        """The worker's next report is answered."""
        await self.sites.hear(self.signer.report)

    async def visit(self, *, again: bool = False) -> tuple[int, bool]:
        """A client's handshake: the certificate's number, and whether a session (of before, if `again`) was resumed."""
        site = self.sites.addon.sites(0).find(NAME)
        assert site is not None
        connection = Connection(site.credentials)
        client = Client(self._context, connection, session=self._session if again else None)
        await _on_a_thread(client.handshake)
        self._session = client.tls.session
        der = client.tls.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number, connection.resumed


class _Handshake:
    """A whole handshake, both ends, in the place of a step."""

    def __init__(self, do_handshake: Callable[[], None]) -> None:
        self.do_handshake = do_handshake


async def _on_a_thread(handshake: Callable[[], None]) -> None:
    pool = Handshakes(1)
    step = Step(_Handshake(handshake), time.monotonic() + 10)  # type: ignore[arg-type]
    await pool.run(step)
    pool.close()
    if step.failure is not None:
        raise step.failure


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """A worker that has started."""
    made = World(tmp_path)
    await made.start()
    yield made
    await made.sites.close()


async def test_nothing_new(world: World) -> None:
    """Reports whose answer is as before cost nothing: no file is read and the signer is asked nothing more."""
    for _ in range(3):
        await world.hear()
    assert (world.rereads, world.signer.asked) == (0, 1)


async def test_another_ticket_key_is_no_reload(world: World) -> None:
    """When the ticket key is replaced, old sessions are not resumed any more; an edit that nobody reloaded stays
    unread."""
    before, _ = await world.visit()
    assert await world.visit(again=True) == (before, True)
    world.certify()
    world.signer.change()
    await world.hear()
    assert await world.visit(again=True) == (before, False)
    assert await world.visit(again=True) == (before, True)
    assert world.rereads == 0


async def test_other_schemes_are_no_reload(world: World) -> None:
    """When a key can be asked for other schemes, the next handshake uses those; an edit stays unread."""
    before, _ = await world.visit()
    world.certify()
    for only in ("rsa_pkcs1_sha256", "rsa_pss_rsae_sha384"):
        world.signer.change(schemes=[only])
        await world.hear()
        assert await world.visit() == (before, False)
        assert world.signer.key.schemes[-1] == only
    assert world.rereads == 0


async def test_a_reload(world: World) -> None:
    """A reload brings what was edited, and the terms that go with it."""
    before, _ = await world.visit()
    world.certify()
    world.signer.change(configuration=4, schemes=["rsa_pkcs1_sha512"])
    await world.hear()
    after, resumed = await world.visit(again=True)
    assert (after != before, resumed) == (True, False)
    assert world.signer.key.schemes[-1] == "rsa_pkcs1_sha512"
    await world.hear()
    assert world.rereads == 1


async def test_a_broken_file_does_not_keep_the_ticket_key(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A reload that fails for a worker changes the ticket key all the same, is said once, and succeeds once the file is
    mended."""
    before, _ = await world.visit()
    assert await world.visit(again=True) == (before, True)
    world.certify()
    world.ca.write_text("broken")
    world.signer.change(configuration=4)
    for _ in range(3):
        await world.hear()
    assert await world.visit(again=True) == (before, False)
    (line,) = [one for one in caplog.messages if "as they were" in one]
    assert line.startswith(f"the sites stay as they were: inbound site {NAME}: client_ca: ")
    world.ca.write_text(AUTHORITY.pem)
    await world.hear()
    assert (await world.visit())[0] != before
    reads = world.rereads
    await world.hear()
    assert world.rereads == reads


async def test_tries_that_take_long_are_far_between(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Where reading the sites takes long, a file that stays broken does not hold up clients at each report."""
    monkeypatch.setattr(over_time, "_QUICK_S", 0.0)
    monkeypatch.setattr(over_time, "_PAUSE", 1e6)
    world.ca.write_text("broken")
    world.signer.change(configuration=4)
    for _ in range(5):
        await world.hear()
    assert world.rereads == 1
    world.ca.write_text(AUTHORITY.pem)
    world.sites._not_before = 0.0  # the pause is over
    await world.hear()
    assert world.rereads == 2
    assert sum("as they were" in one for one in caplog.messages) == 1


async def test_what_went_wrong_again_is_said_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A reason that was mended and comes back is no repetition."""
    for configuration in (4, 5):
        world.ca.write_text("broken")
        world.signer.change(configuration=configuration)
        await world.hear()
        world.ca.write_text(AUTHORITY.pem)
        await world.hear()
    assert sum("as they were" in one for one in caplog.messages) == 2


async def test_a_signer_that_does_not_tell_its_terms_is_asked_again(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """Terms that could not be had are asked for at the next report, and the reason is said once."""
    before, _ = await world.visit()
    world.signer.change()
    world.signer.error = TryLaterError("the signer did not answer")
    for _ in range(3):
        await world.hear()
    assert await world.visit(again=True) == (before, True)
    assert sum("the signer did not answer" in one for one in caplog.messages) == 1
    world.signer.error = None
    await world.hear()
    assert await world.visit(again=True) == (before, False)


async def test_a_worker_that_starts_before_the_signer(tmp_path: Path) -> None:
    """Without a signer the sites are there and nobody resumes; with its first word everything is read and applied:
    there may have been a reload in between."""
    world = World(tmp_path)
    world.signer.error = TryLaterError("the signer is not there")
    await world.start()
    await world.visit()
    assert not (await world.visit(again=True))[1]
    world.signer.error = None
    await world.hear()
    assert world.rereads == 1
    await world.visit()
    assert (await world.visit(again=True))[1]
    await world.hear()
    assert world.rereads == 1
    await world.sites.close()


async def test_a_signer_of_the_version_before(world: World) -> None:
    """A signer that tells one number for everything is believed: whenever it moves, everything is read again."""
    world.signer.told = structs.replace(world.signer.told, terms=7, configuration=None)
    await world.hear()
    await world.hear()
    assert world.rereads == 1


async def test_other_listeners_need_a_start(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A listener that was moved is said to need a start, once, and the sites stay as they were."""
    before, _ = await world.visit()
    world.certify()
    world.listeners = [structs.replace(world.listeners[0], place="127.0.0.1:444")]
    world.signer.change(configuration=4)
    for _ in range(3):
        await world.hear()
    assert [one for one in caplog.messages if "as they were" in one] == [
        "the sites stay as they were: [[inbound]] listen and transparent take effect when hsmitm is started again"
    ]
    assert (world.rereads, (await world.visit())[0]) == (1, before)


async def test_a_configuration_that_cannot_be_read(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is no configuration any more changes nothing, and its reason is the operator's to read."""

    def broken() -> list[ListenerSettings]:
        raise MisconfiguredError("hsmitm.toml is not TOML")

    before, _ = await world.visit()
    world.sites._reread = broken
    world.signer.change(configuration=4)
    await world.hear()
    assert "the sites stay as they were: hsmitm.toml is not TOML" in caplog.messages
    assert (await world.visit())[0] == before
