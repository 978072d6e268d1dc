"""The wheel: what an installed hsmitm has of the bench, that it works, and what is said of the rest.

It is built from a copy of the sources and installed into an environment of its own, which has the packages that hsmitm
needs from ours and nothing else of it: no test here can meet the checkout's files.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path
from typing import Any

import pytest

CHECKOUT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "hsm", "addons", "proxy", "bench", "tests")
INSTALLED_ROOMS = {"report", "sign", "mint", "plan"}
CHECKOUT_ROOMS = {"rig", "forward", "bypass", "inbound", "soak", "fuzz", "edge"}
INSTALLED_COMMANDS = ("sign", "mint", "plan")
CHECKOUT_COMMANDS = ("forward", "bypass", "inbound", "inbound-fuzz", "failover", "restarts", "edge")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of these sources, beside which an older build has left its list of files: each of them."""
    directory = tmp_path_factory.mktemp("wheel")
    sources = directory / "sources"
    sources.mkdir()
    for name in SOURCES:
        if (CHECKOUT / name).is_dir():
            shutil.copytree(CHECKOUT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__", ".run*"))
        else:
            shutil.copy(CHECKOUT / name, sources / name)
    files = [str(path.relative_to(sources)) for path in sorted(sources.rglob("*")) if path.is_file()]
    (sources / "hsmitm.egg-info").mkdir()
    (sources / "hsmitm.egg-info" / "SOURCES.txt").write_text("\n".join(files))
    _run(
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index",
        "--wheel-dir", directory, sources,
    )  # fmt: skip
    (made,) = directory.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where that wheel is installed: an environment with its own bin/python and bin/hsmitm."""
    directory = tmp_path_factory.mktemp("installed")
    venv.create(directory, symlinks=True)
    python = directory / "bin" / "python"
    _run(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel)
    (packages,) = directory.glob("lib/python*/site-packages")
    # A path alone: what our environment has in .pth files, our checkout among it, does not come along.
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    return directory


def _run(*argv: str | Path, status: int = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=240, env=environment, cwd=cwd)
    assert done.returncode == status, done.stdout + done.stderr
    return done


def _said(installed: Path, code: str, cwd: Path) -> Any:
    return json.loads(_run(installed / "bin" / "python", "-P", "-c", code, cwd=cwd).stdout)


def test_what_is_in_it(wheel: Path) -> None:
    """Whoever installs hsmitm gets no module that makes HSMs fail, no fuzzer, no rig, no tests, and all the rest."""
    names = [Path(one) for one in zipfile.ZipFile(wheel).namelist()]
    kinds = {one.suffix for one in names if one.parts[0] in ("hsm", "addons", "proxy", "bench")}
    assert kinds == {".py", ".template", ".json"}
    assert {one.parts[0] for one in names if ".dist-info" not in one.parts[0]} == {"hsm", "addons", "proxy", "bench"}
    assert {one.parts[1] for one in names if one.parts[0] == "bench" and len(one.parts) > 2} == INSTALLED_ROOMS
    ours = {one for name in ("hsm", "addons", "proxy", "bench") for one in (CHECKOUT / name).rglob("*.py")}
    ours = {one.relative_to(CHECKOUT) for one in ours}
    assert {one for one in ours if one not in names} == {
        one for one in ours if one.parts[0] == "bench" and one.parts[1] in CHECKOUT_ROOMS
    }
    assert Path("proxy/config/hsmitm.toml.template") in names
    assert Path("addons/records/decryption_log.schema.json") in names


def test_it_is_not_the_checkout_that_runs(installed: Path, tmp_path: Path) -> None:
    """What the tests below start is what was installed: its files, and no other bench that Python could find."""
    files = _said(
        installed,
        "import bench, hsm, json, proxy; print(json.dumps([one.__file__ for one in (bench, hsm, proxy)]))",
        tmp_path,
    )
    for file in files:
        assert Path(file).is_relative_to(installed)
    found = _said(
        installed,
        "import json; from importlib.util import find_spec\n"
        f"print(json.dumps([one for one in {sorted(CHECKOUT_ROOMS)} if find_spec(f'bench.{{one}}')]))",
        tmp_path,
    )
    assert found == []


def test_the_product_does_not_load_the_bench(installed: Path, tmp_path: Path) -> None:
    """Signer, workers and every other part of hsmitm run without the bench; only the command line looks for it."""
    loaded = _said(
        installed,
        "import addons, hsm, importlib, json, pkgutil, proxy, sys\n"
        "for package in (hsm, addons, proxy):\n"
        "    for one in pkgutil.walk_packages(package.__path__, f'{package.__name__}.'):\n"
        "        if one.name != 'proxy.main':\n"
        "            importlib.import_module(one.name)\n"
        "print(json.dumps([sum(name.startswith('hsm.') for name in sys.modules), 'bench' in sys.modules]))",
        tmp_path,
    )
    assert loaded[0] > 20
    assert loaded[1] is False


def test_measured_and_planned(installed: Path, softhsm_module: str, tmp_path: Path) -> None:
    """An operator without a checkout measures what signing and minting take, and plans with that."""
    hsmitm, signed, minted, planned = installed / "bin" / "hsmitm", *(tmp_path / f"{one}.json" for one in "smp")
    _run(
        hsmitm, "bench", "sign", "--quick", "--key-type", "p256", "--sessions", "1", "--sessions", "2", "--rate", "0",
        "--hsm-latency-ms", "0", "--json", signed,
        cwd=tmp_path,
    )  # fmt: skip
    sign = json.loads(signed.read_text())
    assert sign["errors"] == []
    assert sign["figures"]["p256.signer_per_s"] > 0
    _run(
        hsmitm, "bench", "mint", "--key-type", "p256", "--seconds", "0.3", "--entries", "100", "--json", minted,
        cwd=tmp_path,
    )  # fmt: skip
    mint = json.loads(minted.read_text())
    assert mint["errors"] == []
    assert mint["figures"]["cold_per_s"] > 0
    assert [row["HSM ms"] for row in mint["rows"]] == [0, 0], "without a checkout there is no HSM that is far away"
    assert any("--hsm-latency-ms needs a checkout" in note for note in mint["notes"])
    _run(
        hsmitm, "bench", "plan", "--key-type", "p256", "--connections", "50", "--hosts", "5", "--workers", "2",
        "--sign", signed, "--mint", minted, "--json", planned,
        cwd=tmp_path,
    )  # fmt: skip
    plan = json.loads(planned.read_text())
    assert plan["figures"]["members"] >= 2
    assert plan["figures"]["signer_per_s"] > 0


def test_the_default_has_no_distant_hsm(installed: Path, tmp_path: Path) -> None:
    """Without a choice, signing is measured where an installed hsmitm can: with an HSM that is near."""
    latencies = _said(
        installed,
        "import json; from bench.sign.points import points\n"
        "print(json.dumps(sorted({one.latency_ms for one in points(None, None, None)})))",
        tmp_path,
    )
    assert latencies == [0]


@pytest.mark.parametrize(
    "command",
    [
        ("sign", "--hsm-latency-ms", "0", "--hsm-latency-ms", "5"),
        ("mint", "--hsm-latency-ms", "5"),
        ("plan", "--connections", "9", "--hosts", "1", "--hsm-latency-ms", "5"),
    ],
    ids=INSTALLED_COMMANDS,
)
def test_latency(installed: Path, tmp_path: Path, command: tuple[str, ...]) -> None:
    """An HSM that is far away is the rig's doing: whoever asks for it is told where, before anything is measured."""
    done = _run(installed / "bin" / "hsmitm", "bench", *command, status=78, cwd=tmp_path)
    assert done.stderr == (
        "hsmitm: --hsm-latency-ms needs a checkout of hsmitm's sources (there: ./dev bench ...); the rig that it uses "
        "is not installed with hsmitm\n"
    )


@pytest.mark.parametrize("command", CHECKOUT_COMMANDS)
def test_what_needs_a_checkout(installed: Path, tmp_path: Path, command: str) -> None:
    """A measurement that is not installed says so in a sentence, and how it is run."""
    done = _run(installed / "bin" / "hsmitm", "bench", command, status=78, cwd=tmp_path)
    assert done.stderr == (
        f"hsmitm: bench {command} needs a checkout of hsmitm's sources (there: ./dev bench {command}); the rig that it "
        "uses is not installed with hsmitm\n"
    )
    assert done.stdout == ""


def test_help(installed: Path, tmp_path: Path) -> None:
    """--help names every command, says which need a checkout, and explains each."""
    whole = _run(installed / "bin" / "hsmitm", "bench", "--help", cwd=tmp_path).stdout
    here, there = whole.split("Commands that need a checkout of the sources")
    for command in INSTALLED_COMMANDS:
        assert f" {command} " in here
    for command in CHECKOUT_COMMANDS:
        assert f" {command} " in there
    for command in (*INSTALLED_COMMANDS, *CHECKOUT_COMMANDS):
        assert "--seed" in _run(installed / "bin" / "hsmitm", "bench", command, "--help", cwd=tmp_path).stdout
