"""What `hsmitm status` prints of the signer's report."""

from __future__ import annotations

import io

import pytest
from msgspec import structs
from rich.console import Console

from hsm.wire.admin import CertificateStatus, StatusReport
from proxy.commands.tables import render

CERTIFICATE = CertificateStatus("trust", "CN=ca", 9.0, "00:11", "pkcs11:object=ca", "P-256", ["m1"], True, {})


def shown(certificate: CertificateStatus) -> str:
    """The tables of a report with this certificate, as text."""
    text = io.StringIO()
    Console(width=200, file=text).print(render(StatusReport([], [], [], [certificate], {})))
    return text.getvalue()


@pytest.mark.parametrize(
    ("kind", "name", "use"),
    [
        ("forward", "untrust", " forward-untrust "),
        ("inbound", "shop.example", " inbound shop.example "),
        ("inbound", "trust", " inbound trust "),
    ],
)
def test_what_a_certificate_is_for(kind: str, name: str, use: str) -> None:
    """The table names a CA and a site by what they are, whatever the site is called."""
    assert use in shown(structs.replace(CERTIFICATE, authority="not looked at", kind=kind, name=name))


def test_a_signer_of_before() -> None:
    """A signer that has not been started again since the program was renewed is shown as far as it tells."""
    assert " trust " in shown(CERTIFICATE)
