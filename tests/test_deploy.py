"""The units in deploy/: what they shut is shut, by systemd's own count; what they say fits the program."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from hsm.signer.members import _LONGEST_START_S
from proxy.config.operation import ProxySection, RunSection
from proxy.processes import limits

_ROOT = Path(__file__).parents[1]
_UNITS = sorted((_ROOT / "deploy").glob("*.service"))
_SIGNER, _PROXY = (_ROOT / "deploy" / f"hsmitm-{one}.service" for one in ("signer", "proxy"))
_HALVES = [_SIGNER, _PROXY]
_MOST_EXPOSED = 3.0


def _settings(unit: Path) -> dict[str, list[str]]:
    """All that the unit sets, by name."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"(?m)^([A-Za-z]+)=(.*)$", unit.read_text()):
        found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize("unit", _UNITS, ids=lambda one: one.name)
def test_a_unit_exposes_little(unit: Path) -> None:
    """By the count of `systemd-analyze security` a taken-over process finds most of the system shut."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, f"systemd-analyze is of the package 'systemd' (./dev test installs it): {done.stderr}"
    assert float(found[1]) < _MOST_EXPOSED, done.stdout


@pytest.mark.parametrize("unit", _UNITS, ids=lambda one: one.name)
def test_systemd_understands_a_unit(unit: Path) -> None:
    """No setting is misspelt, or in a section where it says nothing."""
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(unit)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if unit.name in line and "is not executable" not in line]
    assert complaints == []


@pytest.mark.parametrize("unit", _UNITS, ids=lambda one: one.name)
def test_a_unit_shuts_what_none_of_ours_needs(unit: Path) -> None:
    """Capabilities, new rights, namespaces, devices, other users' processes, core files."""
    said = _settings(unit)
    assert said["CapabilityBoundingSet"] == [""]
    assert said["LimitCORE"] == ["0"]
    assert said["UMask"] == ["0077"]
    assert said["ProtectProc"] == ["invisible"]
    for name in ("NoNewPrivileges", "RestrictNamespaces", "PrivateDevices", "RestrictSUIDSGID", "LockPersonality"):
        assert said[name] == ["yes"], name
    assert {"MemoryMax", "TasksMax"} <= said.keys()


@pytest.mark.parametrize("unit", _UNITS, ids=lambda one: one.name)
def test_a_unit_notices_what_hangs(unit: Path) -> None:
    """systemd hears when a process serves, and kills one that gives no sign of life."""
    said = _settings(unit)
    assert said["Type"] == ["notify"]
    assert said["WatchdogSignal"] == ["SIGKILL"], "a core file is wanted of none"
    (allowed,) = said["WatchdogSec"]
    assert int(allowed) >= 2 * RunSection().hang_timeout_s, "systemd would kill us for a worker that hangs"
    assert said["Restart"] == ["on-failure"]


def test_the_signer_is_the_last_to_go() -> None:
    """When memory is short workers are killed before the signer that they all need, and one does not take the others
    with it."""
    signer, proxy = _settings(_SIGNER), _settings(_PROXY)
    assert int(signer["OOMScoreAdjust"][0]) < 0 < int(proxy["OOMScoreAdjust"][0])
    assert proxy["OOMPolicy"] == ["continue"]


def test_workers_have_descriptors_for_their_connections() -> None:
    """The unit allows many times what the usual limit does; its comment says how much that would be."""
    (allowed,) = _settings(_PROXY)["LimitNOFILE"]
    assert int(allowed) >= 65536
    (usual,) = re.findall(r"1,024, which is usual, would carry about (\d+) in a worker", _PROXY.read_text())
    assert int(usual) == (1024 - limits.RESERVED) // limits.PER_CONNECTION


def test_the_memory_of_workers_is_said_for_each() -> None:
    """MemoryMax is for all of them: the comment says what that is for each, and the number is that of four."""
    found = re.search(r"(\d+) MiB for each.*\(workers \+ 1\) \* (\d+)M\.", _PROXY.read_text(), re.DOTALL)
    assert found
    assert found[1] == found[2]
    assert _settings(_PROXY)["MemoryMax"] == [f"{5 * int(found[1])}M"]
    assert int(_settings(_PROXY)["TimeoutStopSec"][0]) > ProxySection().grace_s + 3


def test_landlock_is_allowed_where_workers_put_it_on() -> None:
    """The list of system calls of older systemd does not know those of Landlock: they are named."""
    (allowed, *_) = _settings(_PROXY)["SystemCallFilter"]
    assert {"landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"} <= set(allowed.split())


@pytest.mark.parametrize("need", ["DeviceAllow=", "ReadWritePaths=", "AF_INET", "MemoryDenyWriteExecute=no"])
def test_what_a_vendor_may_need_is_said(need: str) -> None:
    """An operator whose HSM is a card, or whose client writes files, reads in the unit what to open."""
    comments = "\n".join(line for line in _SIGNER.read_text().splitlines() if line.startswith("#"))
    assert need in comments


@pytest.mark.parametrize(
    "store", ["/etc/hsmitm/softhsm", "/var/lib/softhsm", "/var/lib/tpm2_pkcs11", "/var/lib/opencryptoki"]
)
def test_a_store_in_files_can_be_written(store: str) -> None:
    """A library that keeps its keys in files writes there to use them; of its stores those that exist are open."""
    (paths,) = _settings(_SIGNER)["ReadWritePaths"]
    assert f"-{store}" in paths.split()
    assert "ReadWritePaths" not in _settings(_PROXY)


def test_the_signer_is_given_time_to_start() -> None:
    """systemd waits longer for the signer than that does for an HSM which takes long to start."""
    (allowed,) = _settings(_SIGNER)["TimeoutStartSec"]
    assert int(allowed) > 1.5 * _LONGEST_START_S
