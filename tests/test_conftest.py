"""The guards on a run of the tests: in one process and with pytest-xdist's workers, in the whole suite and its parts.

Each run here is a pytest of its own, in a directory with our conftest.py and a few tests that are made up.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.waiting import wait_until

ROOT = Path(__file__).parents[1]
INI = """[pytest]
testpaths = .
addopts = --strict-markers
markers =
    alone
    modules
asyncio_default_fixture_loop_scope = function
"""
QUICK = """
import pytest

def test_together():
    pass

@pytest.mark.alone
def test_alone():
    pass

@pytest.mark.modules
def test_modules():
    pass
"""
WITH_HSM = """
import pytest

def test_together(softhsm_module):
    pass

@pytest.mark.alone
def test_alone(softhsm_module):
    pass

@pytest.mark.modules
def test_modules(softhsm_module):
    pass
"""
CRASHES = """
import os

def test_crashes():
    os.abort()
"""
HANGS = """
import threading

def test_hangs():
    threading.Event().wait()
"""
NO_PARTITION = "ERROR: no test used a partition"
TOGETHER = ("-m", "not alone and not modules", "-n", "2", "--dist", "loadfile", "--max-worker-restart", "0")


def made(directory: Path, **files: str) -> Path:
    """A directory with our conftest.py and these tests: test_NAME.py for each name."""
    shutil.copy(ROOT / "tests/conftest.py", directory)
    (directory / "pytest.ini").write_text(INI)
    for name, text in files.items():
        (directory / f"test_{name}.py").write_text(text)
    return directory


def command(*arguments: str) -> list[str]:
    """A pytest of its own."""
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments]


def surroundings() -> dict[str, str]:
    """What it is started in: it finds our packages, and does not take itself for a worker of this run."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return inherited | {"PYTHONPATH": str(ROOT)}


def run(directory: Path, *arguments: str) -> tuple[int, str]:
    """A run of all tests there: its exit status, and what it said."""
    done = subprocess.run(
        command(*arguments), cwd=directory, env=surroundings(), stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "options", [(), ("-m", "alone"), ("-m", "modules"), TOGETHER], ids=["whole", "alone", "modules", "together"]
)
def test_a_run_without_an_hsm_fails(tmp_path: Path, options: tuple[str, ...]) -> None:
    """Where no test used a partition the whole suite fails, and so does each of its parts, though every test passed."""
    status, said = run(made(tmp_path, a=QUICK, b=QUICK), *options)
    assert status == 1, said
    assert NO_PARTITION in said
    assert " failed" not in said


@pytest.mark.parametrize(
    "options", [("-m", "alone"), ("-m", "modules"), TOGETHER], ids=["alone", "modules", "together"]
)
def test_a_run_with_an_hsm_passes(tmp_path: Path, options: tuple[str, ...]) -> None:
    """One test that uses a partition is enough, whichever worker it ran in; and nothing is left of the run."""
    status, said = run(made(tmp_path, a=QUICK, b=WITH_HSM), *options)
    assert status == 0, said
    assert list((tmp_path / ".runs").iterdir()) == []


@pytest.mark.parametrize("selection", [("-k", "together"), ("test_a.py",)])
def test_a_selection_needs_no_hsm(tmp_path: Path, selection: tuple[str, ...]) -> None:
    """A developer who asks for some tests gets these, without a word of partitions."""
    status, said = run(made(tmp_path, a=QUICK), *selection)
    assert (status, NO_PARTITION in said) == (0, False), said


def test_a_crashed_worker_fails_the_run(tmp_path: Path) -> None:
    """A test that brings its worker down fails by name, and so does the run, though another used a partition."""
    status, said = run(made(tmp_path, a=WITH_HSM, b=CRASHES), *TOGETHER)
    assert status == 1, said
    assert "crashed while running 'test_b.py::test_crashes'" in said
    assert "Fatal Python error: Aborted" in said, "faulthandler shows where"


def test_a_run_that_never_ended_is_told_of(tmp_path: Path) -> None:
    """The run after a crash of pytest itself says so, once; a run that goes on beside it is none that crashed."""
    made(tmp_path, a=WITH_HSM, b=HANGS)
    first = subprocess.Popen(
        command("test_b.py", *TOGETHER), cwd=tmp_path, env=surroundings(), stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        flag = tmp_path / ".runs" / str(first.pid)
        wait_until(flag.exists, "the first run has begun")
        assert "did not reach its end" not in run(tmp_path, "test_a.py")[1]
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait(10)
    assert f"did not reach its end (process {first.pid})" in run(tmp_path, "test_a.py")[1]
    assert "did not reach its end" not in run(tmp_path, "test_a.py")[1]
