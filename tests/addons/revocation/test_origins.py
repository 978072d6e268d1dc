"""addons/revocation/origins.py: responses from files. `test_origins_shared` has the responder of several workers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography.x509 import ocsp as library

from addons.revocation.staples import Staples
from tests.addons.revocation.ocsp_responder import (
    HOUR,
    NOW,
)
from tests.addons.revocation.stapled import CA, MINUTE, Lines, Site, Time, keeping

REVOKED = library.OCSPCertStatus.REVOKED


def replace(path: Path, data: bytes) -> None:
    """As a careful program renews a file: written elsewhere, then moved."""
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)


async def test_file(tmp_path: Path, time: Time, lines: Lines) -> None:
    """A file is stapled at once, and again within a minute of being renewed, and is not read for nothing."""
    site = Site(tmp_path / "shop.der")
    first, second = CA.respond(site.leaf), CA.respond(site.leaf, this_update=NOW, next_update=NOW + 30 * HOUR)
    replace(tmp_path / "shop.der", first)
    async with keeping(time, site):
        await time.asleep()
        assert site.put == [first]
        assert f"OCSP response read from {tmp_path / 'shop.der'}, valid until" in lines()[0][1]
        await time.pass_by(HOUR)
        assert site.put == [first]
        replace(tmp_path / "shop.der", second)
        await time.pass_by(MINUTE)
        assert site.put == [first, second]


@pytest.mark.parametrize("changed", ["mtime", "size", "inode"])
async def test_file_renewed(changed: str, tmp_path: Path, time: Time) -> None:
    """A renewed file is noticed by any one of its time, its size and its inode."""
    path = tmp_path / "shop.der"
    site = Site(path)
    shorter, longer = CA.respond(site.leaf), CA.respond(site.leaf, signer=CA.delegate())
    same = CA.respond(site.leaf)
    while len(same) != len(shorter) or same == shorter:
        same = CA.respond(site.leaf)
    path.write_bytes(shorter)
    before = path.stat()
    async with keeping(time, site):
        await time.asleep()
        if changed == "inode":
            replace(path, same)
        else:
            path.write_bytes(longer if changed == "size" else same)
        if changed == "mtime":
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        else:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        await time.pass_by(MINUTE)
        assert site.put == [shorter, longer if changed == "size" else same]


async def test_bad_file(tmp_path: Path, time: Time, lines: Lines) -> None:
    """What is wrong with a file is said once; it replaces nothing; and a good one is taken as soon as it is there."""
    path = tmp_path / "shop.der"
    site = Site(path)
    good = CA.respond(site.leaf)
    async with keeping(time, site):
        await time.asleep()
        text = f"cannot read {path}: No such file or directory; nothing is stapled"
        [(level, line)] = lines()
        assert level == "WARNING"
        assert line.endswith(text)
        replace(path, good)
        await time.pass_by(MINUTE)
        assert site.put == [good]
        lines()
        for data, message in [
            (good[:-10], "what came is no OCSP response in DER"),
            (CA.respond(site.leaf, this_update=NOW - 5 * HOUR), "is older than the one before"),
            (good + bytes(70000), f"{path} has more than 64 KiB"),
        ]:
            replace(path, data)
            await time.pass_by(10 * MINUTE)
            [(_, line)] = lines()
            assert message in line
            assert "; the old one is used until " in line
        path.unlink()
        path.mkdir()
        await time.pass_by(10 * MINUTE)
        [(_, line)] = lines()
        assert f"cannot read {path}: Is a directory" in line
        assert site.put == [good]


async def test_file_expires(tmp_path: Path, time: Time, lines: Lines) -> None:
    """A file that nobody renews ends with one line, in the second in which its response expires."""
    site = Site(tmp_path / "shop.der")
    replace(tmp_path / "shop.der", CA.respond(site.leaf, next_update=NOW + 24.5 * MINUTE))
    async with keeping(time, site):
        await time.asleep()
        lines()
        await time.pass_by(24.4 * MINUTE)
        assert site.stapled
        await time.pass_by(0.12 * MINUTE)
        assert site.stapled is None
        await time.pass_by(6 * HOUR)
        assert site.stapled is None
        [(_, line)] = lines()
        assert "the OCSP response expired at" in line


async def test_file_of_the_future(tmp_path: Path, time: Time) -> None:
    """A response that is not valid yet is stapled once it is, though the file stays as it was."""
    site = Site(tmp_path / "shop.der")
    replace(tmp_path / "shop.der", CA.respond(site.leaf, this_update=NOW + HOUR))
    async with keeping(time, site):
        await time.asleep()
        assert site.put == []
        await time.pass_by(HOUR)
        assert site.stapled


async def test_revoked_in_file(tmp_path: Path, time: Time, lines: Lines) -> None:
    """A file that says revoked is an error once, not each minute."""
    site = Site(tmp_path / "shop.der")
    replace(tmp_path / "shop.der", CA.respond(site.leaf, status=REVOKED))
    async with keeping(time, site):
        await time.asleep()
        await time.pass_by(HOUR)
        [(level, line)] = lines()
        assert level == "ERROR"
        assert "is revoked since" in line
        assert site.stapled is None


async def test_file_without_issuer(tmp_path: Path, time: Time, lines: Lines) -> None:
    """A file for a chain without its issuer is used, and the log says what could not be checked."""
    site = Site(tmp_path / "shop.der")
    replace(tmp_path / "shop.der", CA.respond(site.leaf))
    async with Staples([site.source._replace(issuer=None)], clock=time.clock, sleep=time.sleep):
        await time.asleep()
        assert site.stapled
        assert lines()[0][1].endswith("(its signature was not checked: the chain has no issuer)")
