"""Trailers pass, but for what would be taken for something that the head said."""

from __future__ import annotations

import pytest

from addons.edge import trailers


@pytest.mark.parametrize(
    "name",
    [
        b"Transfer-Encoding", b"content-length", b"Host", b"HOST", b"Content-Type", b"Content_Type", b"Authorization",
        b"Cookie", b"Set-Cookie", b"Connection", b"Keep-Alive", b"TE", b"Trailer", b"Upgrade", b"Proxy-Authorization",
        b"Client-Cert", b"client-cert", b"Client_Cert", b"CLIENT-CERT_CHAIN", b"Client-Cert-Chain", b"X-Forwarded-For",
        b"X_Forwarded_For", b"Client.Cert", b"X-Forwarded.For", b"Forwarded",
        b"If-Match", b"Range", b"Expect", b"Cache-Control", b"Max-Forwards",
        b":authority", b"Content-Encoding", b"Content-Range", b"X-HTTP-Method-Override", b"WWW-Authenticate",
    ],
)  # fmt: skip
def test_what_frames_routes_or_authorizes_stays_behind(name: bytes) -> None:
    """A server that merges trailers into the head is not told another host, length, user or client certificate."""
    assert trailers.passing([(b"X-Checksum", b"1"), (name, b"x"), (b"Y", b"2")]) == [
        (b"X-Checksum", b"1"),
        (b"Y", b"2"),
    ]


@pytest.mark.parametrize(
    "name", [b"Grpc-Status", b"grpc-message", b"grpc-status-details-bin", b"Content-Digest", b"Repr-Digest", b"ETag",
             b"Server-Timing", b"X-Custom", b"Digest", b"x-amz-checksum-crc32"],
)  # fmt: skip
def test_what_trailers_are_for_passes(name: bytes) -> None:
    """gRPC's status, digests, checksums, timings."""
    assert trailers.may_pass(name)
