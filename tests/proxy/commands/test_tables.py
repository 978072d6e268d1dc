"""What `hsmitm status` prints of the signer's report."""

from __future__ import annotations

import io
import re

import pytest
from msgspec import structs
from rich.console import Console

from hsm.wire.admin import CertificateStatus, InfoReport, StatusReport
from hsm.wire.member import Inspected
from proxy.commands.tables import render, show_info

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


def test_a_site_that_is_refused() -> None:
    """A site whose key no member can serve is told from one whose key is not proved yet."""
    site = structs.replace(CERTIFICATE, kind="inbound", name="shop.example.com", proved=[])
    assert "clients are refused" not in shown(site)
    assert "NOT PROVED: clients are refused" in shown(structs.replace(site, refused=True))


def test_a_slot_that_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """`hsm info` says of a slot what is wrong with it, beside those that answer."""
    show_info(InfoReport({"m1": Inspected("p11.so", "2.6", [], {7: "it does not answer"})}, {}))
    assert re.search(r"7 +it does not answer", capsys.readouterr().out)
