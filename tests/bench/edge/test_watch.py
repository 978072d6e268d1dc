"""What is seen of processes, metrics and logs under an attack."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from bench.edge import watch
from bench.edge.watch import Lines, Watch

_GROWS = """import sys
print(flush=True); sys.stdin.readline()
data = bytes(range(256)) * 400_000
print(flush=True); sys.stdin.readline()
"""


def test_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that grows is seen to, and where it passes the limit the attack is given up: the machine survives."""
    given_up = threading.Event()
    monkeypatch.setattr(watch, "LIMIT_MB", 60.0)
    with subprocess.Popen(
        [sys.executable, "-c", _GROWS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        with Watch(process.pid, given_up.set) as watched:
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()
            assert given_up.wait(10), "nobody saw it grow"
        process.stdin.close()
    assert 40 < watched.growth_mb()["hsmitm"] < 200
    assert watched.exceeded.startswith("hsmitm was ended at ")


def test_metrics() -> None:
    """Counters that rose are found, new ones too; gauges, histograms and what stayed are not."""
    before = watch.samples('# HELP a\na_total{x="1"} 1.0\nb_total 2.0\nc 1.0\n')
    after = watch.samples('a_total{x="1"} 2.0\nb_total 2.0\nc 9.0\nd_total 1.0\ne_bucket{le="1"} 3.0\nnonsense\n')
    assert watch.risen(before, after) == {'a_total{x="1"}', "d_total"}
    assert watch.samples(None) == {}


def test_log(tmp_path: Path) -> None:
    """Lines are counted, and those of a kind that a quiet moment had as well are no news."""
    log = tmp_path / "run.log"
    log.write_text("2026-01-01 INFO worker-1 w0.bench.test: 200\n")
    begin = log.stat().st_size
    with log.open("a") as file:
        file.write(
            "2026-01-02 INFO worker-1 w1.bench.test: 200\n2026-01-02 WARNING worker-1 refused 10 more\n" + "x" * 9000
        )
    quiet, lines = Lines.of(log, 0, begin), Lines.of(log, begin)
    assert (quiet.number, lines.number, lines.longest) == (1, 3, 9000)
    assert lines.without(quiet)[0].endswith("refused 10 more")
    assert len(lines.without(quiet)) == 2


def test_roles() -> None:
    """Processes are called by what they do, not by their numbers."""
    argv = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()", "-m"]
    for words, name in (
        (["proxy.worker", "--config", "x", "--index", "2"], "worker 2"),
        (["proxy.main", "signer", "--config", "x"], "signer"),
        (["hsm.token.main", "8"], "token"),
    ):
        with subprocess.Popen([*argv, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            assert watch.role(process.pid) == name
