"""`hsmitm status` on a terminal: rich tables of a status report."""

from __future__ import annotations

import time

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from hsm.wire import CertificateStatus, MemberStatus, StatusReport, worrying_flags

_EXPIRES_SOON_DAYS = 30
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
    table = Table(*columns, title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in table.columns:
        column.overflow = "fold"
    return table


def _members(members: list[MemberStatus]) -> Table:
    table = _table("Members", "name", "state", "partition and module", "sessions busy/total")
    for member in members:
        state = Text(f"{member.state} since {ago(member.since)}", style=_STYLE.get(member.state, ""))
        state.append(f"\nstarts: {member.starts}", style="")
        lines = [f"{member.module} {member.module_version}".rstrip()]
        if member.partition:
            lines.insert(0, f"{member.partition.label}, serial number {member.partition.serial}")
            lines += [f"the token says {flag}" for flag in worrying_flags(member.partition)]
        if member.state not in ("up", "starting"):
            lines.append(member.reason)
        table.add_row(member.name, state, "\n".join(lines), f"{member.sessions_busy}/{member.sessions_total}")
    return table


def _certificates(certificates: list[CertificateStatus]) -> Table:
    table = _table("CA certificates", "", "CA", "subject and key", "expires in")
    for one in certificates:
        days = (one.not_after - time.time()) / 86400
        proved = f"on the partition, proved by a signature of {', '.join(one.proved)}" if one.proved else "NOT PROVED"
        lines = [one.subject, f"{one.key_type} {one.key}", proved]
        lines += [f"{member}: {problem}" for member, problem in one.problems.items()]
        left = Text(f"{days:.0f} days", style="red" if days < _EXPIRES_SOON_DAYS else "")
        table.add_row("🔒" if one.proved else "⚠", f"forward-{one.authority}", "\n".join(lines), left)
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
