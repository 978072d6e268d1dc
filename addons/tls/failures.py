"""Why a client's handshake failed, in a sentence: what OpenSSL says of it means little to an operator, and mitmproxy
takes every failure for a client that does not trust the CA. No I/O."""

from __future__ import annotations

_DISTRUST = (
    "unknown ca",
    "bad certificate",
    "certificate unknown",
    "certificate expired",
    "certificate revoked",
    "unsupported certificate",
)
"""Alerts with which clients refuse a certificate (RFC 8446 section 6.2)."""
_VERSIONS = ("unsupported protocol", "protocol version", "no protocols available")
_NOTHING_IN_COMMON = ("no shared cipher", "no suitable key share", "no suitable signature algorithm", "no shared group")


def sentence(why: str, host: str) -> str:
    """`why` in OpenSSL's words, or mitmproxy's; `host` is what the client asked for. The words of `why` stay in it."""
    text = why.lower()
    if any(one in text for one in _DISTRUST):
        return f"The client does not trust the proxy's certificate for {host} ({why})"
    if why == "connection closed":
        return (
            f"The client disconnected during the handshake. If this happens consistently for {host}, this may indicate "
            "that the client does not trust the proxy's certificate."
        )
    if any(one in text for one in _VERSIONS):
        return f"the client and this proxy have no TLS version in common ({why}): see the option tls_version_client_min"
    if any(one in text for one in _NOTHING_IN_COMMON):
        return f"the client and this proxy have nothing in common to speak TLS with ({why}): see [proxy] suites"
    return f"the TLS handshake for {host} failed: {why}"
