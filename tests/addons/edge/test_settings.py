"""Which streams pass that are neither TLS nor HTTP."""

from __future__ import annotations

import pytest

from addons.edge.settings import NotTls


def test_a_port_or_a_host_and_port_pass() -> None:
    """An operator lists ports for all hosts, or one host with its port; others stay closed."""
    not_tls = NotTls.parse(passed=False, listed=[25, "Mail.Example:587", "[2001:db8::1]:22"])
    assert not_tls.passes(("any.test", 25))
    assert not_tls.passes(("mail.example.", 587))
    assert not_tls.passes(("2001:db8::1", 22))
    assert not not_tls.passes(("other.example", 587))
    assert not not_tls.passes(("mail.example", 588))
    assert not not_tls.passes(None)
    assert NotTls(passed=True).passes(("any.test", 1))


@pytest.mark.parametrize("wrong", ["mail.example", "mail.example:", 0, 65536, "a:b", "::1:22:"])
def test_what_is_no_place_is_refused(wrong: int | str) -> None:
    """A typing error is told with what would be right."""
    with pytest.raises(ValueError, match="neither a port nor host:port"):
        NotTls.parse(passed=False, listed=[wrong])
