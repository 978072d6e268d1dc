"""A real browser through the proxy, trusting our CA as an operator would make it trust: through its NSS database."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.harness import OriginThread, System

_FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
]  # fmt: skip


def browse(system: System, home: Path, url: str) -> str:
    """The page's DOM, as headless Chromium sees it. Certificate errors are not ignored."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert chromium, "no Chromium: ./dev test installs it on Debian; elsewhere install one that is no snap"
    done = subprocess.run(
        [chromium, *_FLAGS, f"--user-data-dir={home / 'profile'}", f"--proxy-server=http://{system.proxy}",
         "--proxy-bypass-list=<-loopback>", "--virtual-time-budget=10000", "--dump-dom", url],
        capture_output=True, text=True, timeout=90, check=False, env=os.environ | {"HOME": str(home)},
    )  # fmt: skip
    return done.stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home directory with empty NSS databases, where old and new versions of Chromium look."""
    for place in (".pki/nssdb", ".local/share/pki/nssdb"):
        (tmp_path / place).mkdir(parents=True)
        certutil(tmp_path / place, "-N", "--empty-password")
    return tmp_path


def certutil(database: Path, *arguments: str) -> None:
    """NSS's tool on one database."""
    subprocess.run(["certutil", "-d", f"sql:{database}", *arguments], check=True, capture_output=True, timeout=30)


def test_chromium_loads_a_page(system: System, origin: OriginThread, home: Path) -> None:
    """With the CA in its NSS database Chromium shows the page; without it, an interstitial and no page."""
    url = f"https://browser.test:{origin.port}/page"
    assert "says hello" not in browse(system, home, url)
    for place in (".pki/nssdb", ".local/share/pki/nssdb"):
        certutil(home / place, "-A", "-t", "C,,", "-n", "hsmitm", "-i", str(system.ca))
    assert "says hello over TLS, path /page" in browse(system, home, url)
