"""A wrong PIN, whatever a vendor's module says to it, is tried once: by `check`, by `run`, and by the next `run`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.rig.quirks_module import QuirksModule
from proxy.config import edit
from proxy.demo.origin import OriginCA
from tests.modules.module_system import ModuleSystem
from tests.modules.vendor import Vendor
from tests.modules.vendors import VENDORS, prepared
from tests.waiting import wait_until

pytestmark = pytest.mark.modules


@pytest.fixture(scope="module", params=VENDORS, ids=lambda kind: kind.name)
def vendor(request: pytest.FixtureRequest) -> Iterator[Vendor]:
    """A module with its token and its daemons."""
    with prepared(request.param) as (made,):
        yield made


def test_a_wrong_pin_is_tried_once(vendor: Vendor, softhsm_module: str, tmp_path: Path) -> None:
    """`check` finds it out, two starts of `run` remember; the HSM has seen one login."""
    counter = QuirksModule(tmp_path / "counter")
    wrong = tmp_path / "wrong-pin"
    wrong.write_text("pin0815\n")
    wrong.chmod(0o600)
    system = ModuleSystem.of_group([vendor], tmp_path / "system", OriginCA().pem)
    behind_counter = vendor.member(
        "wrong", module=str(counter.path), pin={"file": str(wrong)},
        environment=vendor.environment | counter.environment(vendor.module),
    )  # fmt: skip
    text = edit.with_member(system.toml.read_text(), behind_counter)
    system.toml.write_text(edit.without_member(text, vendor.name))
    assert "PIN" in system.check(status=78)
    assert counter.calls("C_Login") == 1
    for _ in range(2):
        system.start(wait=False)
        wait_until(lambda: system.log.count("quarantined") or system.process.poll() is not None, "it says so")
        system.stop()
    assert counter.calls("C_Login") == 1
    assert "pin0815" not in system.log
