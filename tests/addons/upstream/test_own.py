"""Certificates of ours, for servers that ask for one."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL

from addons.policy.settings import ClientCertificate, Profile
from addons.upstream import own
from addons.upstream.judge import spki_sha256
from addons.upstream.settings import Own
from addons.upstream.tls import UpstreamTls
from hsm.errors import MisconfiguredError
from tests.addons.upstream.faulty import NOBODY, ROOT, Shown, shown
from tests.addons.upstream.test_judge import HOST
from tests.addons.upstream.test_judging import Proxy


@pytest.fixture
def roots(tmp_path: Path) -> Path:
    """The one root."""
    (tmp_path / "roots.pem").write_bytes(ROOT.pem)
    return tmp_path / "roots.pem"


def _written(ours: Shown, directory: Path, *, apart: bool = False) -> Own:
    certificate, key = directory / "ours.pem", directory / ("ours.key" if apart else "ours.pem")
    if apart:
        certificate.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in ours.chain))
        key.write_bytes(ours.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    else:
        certificate.write_bytes(ours.pem)
    return Own(certificate, key)


def _wanting(seen: list[str]) -> SSL.Context:
    """A server that wants to know who we are."""
    made = SSL.Context(SSL.TLS_SERVER_METHOD)

    def see(_: SSL.Connection, certificate: object, _error: int, depth: int, _ok: int) -> bool:
        if depth == 0:
            seen.append(spki_sha256(certificate.to_cryptography()))  # type: ignore[attr-defined]
        return True

    made.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, see)
    return made


@pytest.mark.parametrize("apart", [True, False])
async def test_a_server_is_shown_the_certificate_that_its_profile_names(
    roots: Path, tmp_path: Path, apart: bool
) -> None:
    """Of several, the one of the rule's profile; with its key in the same file, or apart."""
    ours = NOBODY.issue("us.example")
    written = _written(ours, tmp_path, apart=apart)
    certificates = [
        ClientCertificate(name="other", certificate="/nowhere"),
        ClientCertificate(name="us", certificate="ours.pem", key="ours.key" if apart else None),
    ]
    seen: list[str] = []
    profile = Profile(client_certificate="present:us")
    upstream = UpstreamTls(base=written.certificate.parent)
    proxy = Proxy(
        shown("", HOST), profile, roots, upstream=upstream, settings=_wanting(seen), certificates=certificates
    )
    assert proxy.goes_on
    assert set(seen) == {spki_sha256(ours.chain[0])}


async def test_a_certificate_that_broke_meanwhile_is_not_shown(
    roots: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The log says why; the server, which misses it, is what the client hears of."""
    own.forget()
    written = _written(NOBODY.issue("us.example"), tmp_path)
    written.certificate.write_text("half a file")
    certificates = [ClientCertificate(name="us", certificate=str(written.certificate))]
    seen: list[str] = []
    with caplog.at_level(logging.ERROR, "hsmitm"):
        profile = Profile(client_certificate="present:us")
        proxy = Proxy(shown("", HOST), profile, roots, settings=_wanting(seen), certificates=certificates)
    assert "servers are shown no client certificate: " in caplog.text
    assert seen == []
    assert [one.data.kind for one in proxy.refusals] == ["server-wants-client-certificate"]
    own.forget()


@pytest.mark.parametrize("what", ["no file", "no certificate", "another's key"])
def test_what_cannot_be_used_is_refused_at_the_start(tmp_path: Path, what: str) -> None:
    """With the name that the configuration has for it."""
    written = _written(NOBODY.issue("us.example"), tmp_path, apart=True)
    if what == "no file":
        written.key.unlink()
    elif what == "no certificate":
        written.certificate.write_text("none")
    else:
        alone = NOBODY.key
        written.key.write_bytes(alone.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(MisconfiguredError, match=r"^upstream.client_certificates 'us': "):
        own.check({"us": written})
