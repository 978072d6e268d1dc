"""What mitmproxy users bring still works in a worker: scripts, options of addons that are left out; and a CA chain."""

from __future__ import annotations

from pathlib import Path

from proxy.demo.origin import OriginCA
from tests.integration.harness import OriginThread, System


def test_user_script_and_option(softhsm_module: str, origin_ca: OriginCA, origin: OriginThread, tmp_path: Path) -> None:
    """A script adds a header, and the option modify_body brings mitmproxy's addon for it in."""
    system = System.make(tmp_path / "s", upstream_ca=origin_ca.pem, workers="1")
    (system.directory / "header.py").write_text(
        "def response(flow):\n    flow.response.headers['x-inspected'] = flow.request.pretty_host\n"
    )
    system.edit(scripts='["header.py"]', options='{ modify_body = ["/hello/goodbye"] }')
    with system:
        reply = system.curl(f"https://scripts.test:{origin.port}/", "--include")
    assert reply.ok, reply.errors
    assert "x-inspected: scripts.test" in reply.body
    assert "says goodbye over TLS" in reply.body


def test_subordinate_ca_sends_its_chain(
    softhsm_module: str, origin_ca: OriginCA, origin: OriginThread, tmp_path: Path
) -> None:
    """With a CA that a company root signed, clients that trust the root alone are satisfied: the chain is sent."""
    import datetime as dt  # noqa: PLC0415

    from cryptography import x509  # noqa: PLC0415
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import rsa  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import Encoding  # noqa: PLC0415

    system = System.make(tmp_path / "s", upstream_ca=origin_ca.pem, workers="1")
    own = x509.load_pem_x509_certificate(system.ca.read_bytes())
    root_key = rsa.generate_private_key(65537, 2048)
    root_name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "company root")])
    now = dt.datetime.now(dt.UTC)

    def build(subject: x509.Name, key: object, path_length: int) -> x509.Certificate:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(root_name)
            .public_key(key)  # type: ignore[arg-type]
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=100))
            .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
            .add_extension(x509.SubjectKeyIdentifier(b"not the usual SHA-1"), critical=False)
            .sign(root_key, hashes.SHA256())
        )

    root = build(root_name, root_key.public_key(), 1)
    subordinate = build(own.subject, own.public_key(), 0)
    system.ca.unlink()
    system.ca.write_bytes(subordinate.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM))
    trust = tmp_path / "root.pem"
    trust.write_bytes(root.public_bytes(Encoding.PEM))
    with system:
        reply = system.curl(f"https://chain.test:{origin.port}/", trust=trust)
    assert reply.ok, reply.errors
