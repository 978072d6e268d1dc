"""A server that wants a client certificate, which an inspecting proxy has not: who waits is told so, and soon."""

from __future__ import annotations

import ssl

import pytest

from tests.exchanges.ends1 import HOST
from tests.exchanges.scene import FORWARD, WAYS, Scene, over_tls

pytestmark = pytest.mark.alone
_SOON_S = 2.0
_WISH = f"{HOST} wants a client certificate"


def _wanting(scene: Scene, version: ssl.TLSVersion, alpn: str, verdict: ssl.VerifyMode) -> ssl.SSLContext:
    """A server's context that asks for a certificate."""
    context = scene.ca.context((HOST,), (alpn,))
    context.load_verify_locations(cadata=scene.ca.pem)
    context.verify_mode = verdict
    context.minimum_version = context.maximum_version = version
    return context


def _logged(scene: Scene, way: str) -> int:
    return scene.systems[way].log.count(f"(server-wants-client-certificate): {_WISH}")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
@pytest.mark.parametrize("verdict", [ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL], ids=["alert", "bare end"])
def test_tls_1_3_says_it_after_our_handshake(scene: Scene, way: str, alpn: str, verdict: ssl.VerifyMode) -> None:
    """The client gets a page that says what is missing, within two seconds, and the log has it under a class."""
    context = _wanting(scene, ssl.TLSVersion.TLSv1_3, alpn, verdict)
    scene.through(way)
    before = _logged(scene, way)
    with scene.serving(over_tls(context)) as port:
        answer = scene.curl(way, port)
    assert answer.status == 502, answer
    assert _WISH in answer.body
    assert answer.took_s < _SOON_S
    scene.systems[way].until_logged(f"(server-wants-client-certificate): {_WISH}", times=before + 1)


@pytest.mark.parametrize("way", WAYS)
def test_tls_1_2_says_it_in_the_handshake(scene: Scene, way: str) -> None:
    """No leaf of a CA that clients trust is given for it; behind the other one is the page."""
    context = _wanting(scene, ssl.TLSVersion.TLSv1_2, "http/1.1", ssl.CERT_REQUIRED)
    with scene.serving(over_tls(context)) as port:
        answer = scene.curl(way, port, *(["--insecure"] if way in FORWARD else []))
        if way in FORWARD:
            with pytest.raises(ssl.SSLCertVerificationError):
                scene.tls(way, port)
    assert answer.status == 502, answer
    assert _WISH in answer.body
    scene.systems[way].until_logged(f"(server-wants-client-certificate): {_WISH}")
