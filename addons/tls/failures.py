"""Why a client's handshake failed, in a sentence: what OpenSSL says of it means little to an operator, and mitmproxy
takes every failure for a client that does not trust the CA. No I/O."""

from __future__ import annotations

_DISTRUSTED = (
    "unknown ca",
    "bad certificate",
    "certificate unknown",
    "certificate expired",
    "certificate revoked",
    "unsupported certificate",
)
"""Alerts with which clients refuse a certificate (RFC 8446 section 6.2)."""
_NO_VERSION = "the client and this proxy have no TLS version in common ({why}): see the option tls_version_client_min"
_NO_SUITE = "the client and this proxy have nothing in common to speak TLS with ({why}): see [proxy] suites"
_GONE = (
    "The client disconnected during the handshake. If this happens consistently for {host}, this may indicate that the "
    "client does not trust the proxy's certificate."
)
_WORDS = {
    _DISTRUSTED: "The client does not trust the proxy's certificate for {host} ({why})",
    ("unsupported protocol", "protocol version", "no protocols available"): _NO_VERSION,
    ("no shared cipher", "no suitable key share", "no shared group"): _NO_SUITE,
    ("no suitable signature algorithm",): "the client verifies no signature that this proxy makes ({why})",
}


def sentence(why: str, host: str, doubt: str = "") -> str:
    """`why` in OpenSSL's words, or mitmproxy's; `host` is what the client asked for. The words of `why` stay in it.

    `doubt` is what stood in the way from the begin: it is the answer, unless there was nothing to speak TLS with.
    """
    text = why.lower()
    found = next((words for several, words in _WORDS.items() if any(one in text for one in several)), "")
    if doubt and found not in (_NO_VERSION, _NO_SUITE):
        return doubt
    if why == "connection closed":
        found = _GONE
    return (found or "the TLS handshake for {host} failed: {why}").format(why=why, host=host)
