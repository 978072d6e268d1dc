"""`./dev test`: three parts, what is told of them, and the exit status. pytest is a script here that says its end."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/sh
echo "$*" >>asked
case "$*" in *"not alone"*) exit {together} ;; *"alone"*) exit {alone} ;; *"modules"*) exit {modules} ;; esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A directory that ./dev finds set up: every package is installed, .venv is made."""
    shutil.copy(ROOT / "dev", tmp_path)
    for name in ("requirements.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    program(tmp_path / "bin/dpkg-query", "#!/bin/sh\necho install ok installed\n")
    program(tmp_path / ".venv/bin/hsmitm", "#!/bin/sh\n")
    pinned = subprocess.run(
        ["sha256sum", "requirements.txt", "pyproject.toml"], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    (tmp_path / ".venv/.made-from").write_text(pinned.stdout)
    return tmp_path


def program(path: Path, text: str) -> None:
    """A script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def dev_test(
    checkout: Path, *arguments: str, together: int = 0, alone: int = 0, modules: int = 0
) -> tuple[int, str, list[str]]:
    """`./dev test` where the parts end so: the exit status, what was said, and with what pytest was started."""
    program(checkout / ".venv/bin/python", PYTHON.format(together=together, alone=alone, modules=modules))
    done = subprocess.run(
        ["./dev", "test", *arguments], cwd=checkout, capture_output=True, text=True, timeout=30, check=False,
        env=os.environ | {"PATH": f"{checkout / 'bin'}:{os.environ['PATH']}"},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr, (checkout / "asked").read_text().splitlines()


def test_all_parts_run(checkout: Path) -> None:
    """The whole suite is every test once: what can share the machine side by side, then the others, each told of."""
    status, said, asked = dev_test(checkout)
    assert status == 0
    assert len(asked) == 3
    assert asked[0].startswith("-m pytest -m not alone and not modules --numprocesses auto ")
    assert asked[1:] == ["-m pytest -m alone", "-m pytest -m modules"]
    told = [line.split(":")[1] for line in said.splitlines()]
    assert told == [" set-up", *(f" tests {part} of 3" for part in (1, 2, 3)), " tests"]


@pytest.mark.parametrize(("together", "alone", "modules"), [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1), (0, 5, 0)])
def test_a_failure_in_any_part_is_one(checkout: Path, together: int, alone: int, modules: int) -> None:
    """Whichever part fails, the others run, and the end says which it was."""
    status, said, asked = dev_test(checkout, together=together, alone=alone, modules=modules)
    assert status == 1
    assert len(asked) == 3
    assert said.splitlines()[-1] == (
        f"dev: tests FAILED: part 1 ended with status {together}, part 2 with {alone}, part 3 with {modules} "
        "(0 is success)"
    )


@pytest.mark.parametrize("ended", [2, 137])
def test_an_interrupted_run_ends(checkout: Path, ended: int) -> None:
    """Ctrl-C, or tests that cannot be read, end the run there and then."""
    status, said, asked = dev_test(checkout, together=ended)
    assert (status, len(asked)) == (ended, 1)
    assert "the other parts were not begun" in said


def test_arguments_are_pytests(checkout: Path) -> None:
    """What a developer types after `./dev test` goes to one pytest as it stands."""
    status, _, asked = dev_test(checkout, "-k", "leaf or chain", "tests/hsm")
    assert (status, asked) == (0, ["-m pytest -k leaf or chain tests/hsm"])


def test_the_matrix_alone(checkout: Path) -> None:
    """`./dev test modules` is the third part alone, and takes what pytest takes."""
    status, _, asked = dev_test(checkout, "modules", "-k", "tpm")
    assert (status, asked) == (0, ["-m pytest -m modules tests/modules -k tpm"])


def test_every_test_is_in_one_part() -> None:
    """No test of the matrix is marked to run alone as well, and those in its folder are all marked."""
    for path in (ROOT / "tests/modules").glob("test_*.py"):
        text = path.read_text()
        assert "pytestmark = pytest.mark.modules\n" in text, path
        assert "mark.alone" not in text, path
