"""Facts of connections as a worker finds them, for tests of what is made of them."""

from __future__ import annotations

from addons.records.facts import CertificateFacts, Decision, Facts, Failure, Leg, Verification


def bare() -> Facts:
    """A client that came and went."""
    return Facts(
        id="1e0c0f1e-0000-4000-8000-000000000001",
        began=1_790_000_000.25,
        began_monotonic=1.0,
        listener="127.0.0.1:8080",
        client_ip="10.1.2.3",
        client_port=50123,
        failure=Failure("client-closed", "client", "the client closed the connection and had asked for nothing"),
    )


def decrypted() -> Facts:
    """A site that was inspected, with everything that can be known of it."""
    leaf = CertificateFacts("CN=shop.example.com", "CN=hsmitm forward trust", "2026-09-28T15:20:00Z", "ab" * 32)
    server = CertificateFacts("CN=shop.example.com", "CN=Example CA,O=Example", "2026-12-01T00:00:00Z", "cd" * 32)
    return Facts(
        id="1e0c0f1e-0000-4000-8000-000000000002",
        began=1_790_000_001.5,
        began_monotonic=2.0,
        sequence=7,
        listener="127.0.0.1:8080",
        client_ip="10.1.2.3",
        client_port=50124,
        user="alice",
        user_groups=("staff",),
        host="shop.example.com",
        port=443,
        destination="192.0.2.7",
        addresses=("192.0.2.7", "2001:db8::7"),
        hello=True,
        sni="shop.example.com",
        sni_proved=True,
        ja4="t13d1516h2_8daaf6152771_e5627efa2ab1",
        alpn=("h2", "http/1.1"),
        groups=(4588, 29, 23),
        ech=True,
        pq_downgrade=True,
        decision=Decision("everything-else", "decrypt", "careful", "no rule before it matched"),
        policy_version="3",
        categories=("shopping",),
        event="decrypted",
        client_leg=Leg(
            "TLSv1.3",
            "TLS_AES_128_GCM_SHA256",
            "X25519MLKEM768",
            "h2",
            False,
            leaf,
            None,
            bytes_in=2048,
            bytes_out=9001,
        ),
        server_leg=Leg(
            "TLSv1.2", "ECDHE-RSA-AES128-GCM-SHA256", "x25519", "h2", True, server, Verification(0, 0, "ok"), 8800, 1900
        ),
        requests=3,
        authority="trust",
        leaf_serial="4f3a",
        leaf_cache="miss",
        member="LunaHSM1",
        sign_ms=3.25,
    )
