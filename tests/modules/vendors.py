"""Every vendor's module that can be run here."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.modules.nss import Nss
from tests.modules.opencryptoki import OpenCryptoki
from tests.modules.p11_kit import P11Kit
from tests.modules.softhsm import SoftHSM
from tests.modules.tpm import Tpm
from tests.modules.vendor import Vendor

VENDORS: tuple[type[Vendor], ...] = (SoftHSM, P11Kit, OpenCryptoki, Nss, Tpm)


@contextmanager
def prepared(*kinds: type[Vendor]) -> Iterator[list[Vendor]]:
    """One of each kind, ready. Paths are short, as those of sockets must be."""
    with tempfile.TemporaryDirectory(prefix="hsm-") as directory, ExitStack() as ends:
        made = []
        for kind in kinds:
            vendor = kind(Path(directory) / kind.name)
            ends.callback(vendor.end)
            vendor.prepare()
            made.append(vendor)
        yield made
