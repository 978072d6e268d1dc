"""addons/revocation/lists.py: lists that are fetched once, with a web server on loopback."""

from __future__ import annotations

import asyncio
import threading
from http.server import BaseHTTPRequestHandler

import pytest

from addons.revocation import lists
from tests.addons.revocation.asking import Asking
from tests.addons.revocation.ocsp_responder import HOUR, NOW, Authority, private_key, respond_with
from tests.addons.revocation.stapled import CA
from tests.waiting import until


async def test_a_list_is_kept(asking: Asking) -> None:
    """A list serves all certificates that name it for half a day; then a newer one is fetched, once."""
    url = asking.at("/ca.crl", CA.list_revoked(1, next_update=NOW + 240 * HOUR))
    found = await asyncio.gather(*(asking.lists.find(url, CA.certificate) for _ in range(100)))
    assert len(set(map(id, found))) == 1
    asking.time.now += 11 * HOUR
    assert await asking.lists.find(url, CA.certificate) is found[0]
    assert asking.questions == ["/ca.crl"]
    asking.time.now += 2 * HOUR
    asking.at("/ca.crl", CA.list_revoked(1, 2, this_update=NOW + 12 * HOUR, next_update=NOW + 240 * HOUR))
    found = await asyncio.gather(*(asking.lists.find(url, CA.certificate) for _ in range(100)))
    assert found[0].revoked(2, [], ca=False) is not None
    assert asking.questions == ["/ca.crl"] * 2


@pytest.mark.parametrize("instead", [b"", CA.list_revoked(this_update=NOW - 2 * HOUR, next_update=NOW + 72 * HOUR)])
async def test_a_list_is_used_until_it_ends(asking: Asking, instead: bytes) -> None:
    """Where there is no newer one, or somebody shows an older one again, the list counts until its time is over."""
    url = asking.at("/ca.crl", CA.list_revoked(1, next_update=NOW + 24 * HOUR))
    first = await asking.lists.find(url, CA.certificate)
    asking.time.now += 13 * HOUR
    asking.at("/ca.crl", instead)
    for _ in range(5):
        assert await asking.lists.find(url, CA.certificate) is first
    assert asking.questions == ["/ca.crl"] * 2
    asking.time.now += 12 * HOUR
    asking.at("/ca.crl", b"")
    with pytest.raises(ValueError, match="no CRL in DER"):
        await asking.lists.find(url, CA.certificate)


async def test_a_list_that_is_no_good_is_not_fetched_again_and_again(asking: Asking) -> None:
    """A thousand certificates that name a bad list cost one download a minute."""
    url = asking.at("/ca.crl", Authority(private_key("other")).list_revoked())
    for _ in range(10):
        with pytest.raises(ValueError, match="signature does not verify"):
            await asking.lists.find(url, CA.certificate)
    assert asking.questions == ["/ca.crl"]


async def test_too_large_a_list(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list may have ten megabytes (here: a part of one), and one without end is left there."""
    monkeypatch.setattr(lists, "MOST", 1 << 20)

    def endless(http: BaseHTTPRequestHandler) -> None:
        http.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            http.wfile.write(bytes(65536))

    with pytest.raises(ValueError, match="answers with more than 1024 KiB"):
        await asking.lists.find(asking.at("/ca.crl", endless), CA.certificate)


async def test_kept_lists_are_bounded_in_bytes(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many lists those are kept that were asked for last, up to so many bytes."""
    monkeypatch.setattr(lists, "_KEPT", 5 * (lists._ENTRY + 400))
    for number in range(8):
        await asking.lists.find(asking.at(f"/{number}.crl", CA.list_revoked(1)), CA.certificate)
    assert len(asking.lists._kept) == 5
    assert 0 < asking.lists._bytes <= 5 * (lists._ENTRY + 400)
    await asking.lists.find(asking.at("/7.crl", b""), CA.certificate)
    assert asking.questions == [f"/{number}.crl" for number in range(8)]


async def test_two_downloads_at_a_time(asking: Asking) -> None:
    """Lists are large: two are fetched at a time, others wait."""
    go, at_once = threading.Event(), []

    def late(http: BaseHTTPRequestHandler) -> None:
        at_once.append(http.path)
        assert go.wait(10)
        respond_with(CA.list_revoked())(http)

    finding = [
        asyncio.create_task(asking.lists.find(asking.at(f"/{number}.crl", late), CA.certificate)) for number in range(5)
    ]
    await until(lambda: len(at_once) == 2, "two are fetched")
    assert len(asking.questions) == 2
    go.set()
    await asyncio.gather(*finding)
    assert len(asking.questions) == 5
