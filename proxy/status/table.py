"""`hsmitm status` on a terminal: rich tables of a status report."""

from __future__ import annotations

import time

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from hsm.wire import CertificateStatus, MemberStatus, StatusReport

_STYLE = {"up": "green", "starting": "yellow", "down": "red", "quarantined": "bold red", "stopped": "dim"}


def ago(since: float) -> str:
    """Seconds since the epoch as "3 min", counted to now."""
    seconds = max(0.0, time.time() - since)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def render(report: StatusReport) -> Group:
    """Members, CA certificates, workers, counters."""
    return Group(_members(report.members), _certificates(report.certificates), _workers(report), _counters(report))


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", expand=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _members(members: list[MemberStatus]) -> Table:
    table = _table("Members", "name", "state", "partition", "serial number", "module", "sessions busy/total", "starts")
    for member in members:
        partition = member.partition
        label = partition.label if partition else "-"
        if partition and (worrying := [flag for flag in partition.flags if flag.startswith("USER_PIN_")]):
            label += "".join(f"\n{flag}" for flag in worrying if flag != "USER_PIN_INITIALIZED")
        state = Text(f"{member.state} since {ago(member.since)}", style=_STYLE.get(member.state, ""))
        if member.state not in ("up", "starting"):
            state.append(f"\n{member.reason}", style="")
        table.add_row(
            member.name, state, label, partition.serial if partition else "-",
            f"{member.module}\n{member.module_version}", f"{member.sessions_busy}/{member.sessions_total}",
            str(member.starts),
        )  # fmt: skip
    return table


def _certificates(certificates: list[CertificateStatus]) -> Table:
    table = _table("CA certificates", "", "CA", "subject", "expires in", "key", "proved by")
    for one in certificates:
        days = (one.not_after - time.time()) / 86400
        proved = ", ".join(one.proved) or "nobody"
        for member, problem in one.problems.items():
            proved += f"\n{member}: {problem}"
        table.add_row(
            "🔒" if one.proved else "⚠", f"forward-{one.authority}", one.subject,
            Text(f"{days:.0f} days", style="red" if days < 30 else ""), f"{one.key_type}\n{one.key}", proved,
        )  # fmt: skip
    return table


def _workers(report: StatusReport) -> Table:
    table = _table("Workers", "worker", "pid", "up for", "connections", "listening on")
    addresses = ", ".join(listener.address for listener in report.listeners)
    for worker in report.workers:
        table.add_row(str(worker.index), str(worker.pid), ago(worker.started), str(worker.connections), addresses)
    return table


def _counters(report: StatusReport) -> Table:
    table = _table("Counters", "counter", "value")
    for name, value in report.counters.items():
        table.add_row(name.replace("_", " "), f"{value:.3f}" if name.endswith("seconds") else f"{value:.0f}")
    return table


def show(report: StatusReport) -> None:
    """Print the tables."""
    Console().print(render(report))
