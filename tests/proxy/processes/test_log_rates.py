"""How many lines of a kind an operator reads, whatever clients do."""

from __future__ import annotations

import logging

import pytest

from proxy.processes import log_rates
from proxy.processes.log_rates import PER_CLASS, PER_LOGGER, Held, Rates


def line(message: object, *arguments: object, name: str = "hsmitm.connections", **extra: object) -> logging.LogRecord:
    """A warning, as a logger makes it."""
    record = logging.LogRecord(name, logging.WARNING, "", 0, message, arguments, None)
    record.__dict__.update(extra)
    return record


def passed(rates: Rates, records: list[logging.LogRecord], now: float) -> int:
    """How many of them are written."""
    return sum(rates.passes(one, now) for one in records)


def test_a_burst_is_ten_lines_and_a_count() -> None:
    """Ten of a kind are written; how many more there were is told a second later, with the first of them."""
    rates = Rates()
    assert passed(rates, [line("client %s refused", number) for number in range(1000)], 5.0) == PER_CLASS
    assert rates.waiting
    assert list(rates.due(5.9)) == []
    assert list(rates.due(6.5)) == [Held(990, 1.5, logging.WARNING, "client 10 refused")]
    assert list(rates.due(9.0)) == []
    assert not rates.waiting
    assert rates.held == 990


def test_the_next_second_is_another() -> None:
    """A kind that goes on has its ten lines each second, and its counts between."""
    rates, written, told = Rates(), 0, 0
    for step in range(100):  # ten seconds, a hundred lines each
        written += passed(rates, [line("x")] * 10, step / 10)
        told += len(list(rates.due(step / 10)))
    assert written == 10 * PER_CLASS
    assert 8 <= told <= 10


def test_kinds_do_not_share(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flood of one kind hides no line of another; a level, a logger or what the place says makes another kind."""
    rates = Rates()
    assert passed(rates, [line("flood")] * 100, 1.0) == PER_CLASS
    assert passed(rates, [line("other %s", 1)], 1.0) == 1
    assert passed(rates, [line("flood", name="hsmitm.worker")], 1.0) == 1
    assert passed(rates, [line("flood", log_class="mine")] * 100, 1.0) == PER_CLASS
    assert passed(rates, [line("something else", log_class="mine")], 1.0) == 0


def test_messages_without_a_template() -> None:
    """A script that makes its messages before it logs them has a bound all the same."""
    rates = Rates()
    assert passed(rates, [line(f"seen {number}", name="script") for number in range(1000)], 1.0) == PER_LOGGER


@pytest.mark.parametrize("name", ["hsmitm.member", "hsmitm.group", "hsmitm.signer"])
def test_what_no_client_causes_is_told(name: str) -> None:
    """Sixteen members that go down together are sixteen lines."""
    assert passed(Rates(), [line("member %s: up -> down", number, name=name) for number in range(16)], 1.0) == 16
    assert passed(Rates(), [line("member %s", number, name=name) for number in range(500)], 1.0) == PER_LOGGER
    assert passed(Rates(), [line("not minted", name=name, log_class="of 7")] * 500, 1.0) == PER_CLASS


def test_the_table_is_bounded() -> None:
    """Kinds without number, too, keep neither memory nor a reader busy."""
    rates = Rates()
    for number in range(5000):
        rates.passes(line(f"{number}", name=f"script.{number}"), 1.0)
    assert len(rates._classes) <= log_rates._CLASSES + 1
    assert passed(rates, [line("fresh", name="late")], 100.0) == 1
    assert len(rates._classes) <= log_rates._CLASSES + 1


def test_what_is_kept_of_a_message_is_short() -> None:
    """Messages of a megabyte, each another, are not kept to tell them apart."""
    rates = Rates()
    for number in range(100):
        rates.passes(line(f"{number} " + "x" * 1_000_000, name=f"script.{number}"), 1.0)
    kept = [part for kind in rates._classes if isinstance(kind, tuple) for part in kind if isinstance(part, str)]
    assert max(map(len, kept)) <= 200


def test_an_example_is_short() -> None:
    """A name of 300 kB is no reason for a long count; and an argument that cannot be shown is none for an error."""

    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no text")

    rates = Rates()
    passed(rates, [line("%s", "a" * 300_000)] * 11 + [line("odd %s", Odd())] * 11, 1.0)
    assert [len(held.example) for held in rates.due(3.0)] == [200, len("a line that cannot be written: RuntimeError")]


def test_the_end_tells_everything() -> None:
    """What was held back just before the end is told, too."""
    rates = Rates()
    passed(rates, [line("x")] * 12, 1.0)
    assert [held.count for held in rates.due(1.0, all_of_it=True)] == [2]
