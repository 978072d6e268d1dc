"""What `hsmitm status`, `hsm status` and `hsm info` print on a terminal: rich tables of the signer's reports."""

from __future__ import annotations

import time

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from hsm import schemes
from hsm.wire.admin import CertificateStatus, GroupStatus, InfoReport, MemberStatus, StatusReport
from hsm.wire.member import Inspected, worrying_flags
from proxy.commands.findings import EXPIRES_SOON_DAYS

_SIGNING = (
    {"CKM_RSA_PKCS", "CKM_RSA_PKCS_PSS", "CKM_ECDSA"}
    | {f"CKM_SHA{size}_{kind}" for size in (256, 384, 512) for kind in ("RSA_PKCS", "RSA_PKCS_PSS")}
    | {f"CKM_ECDSA_SHA{size}" for size in (256, 384, 512)}
)
_STYLE = {
    "up": "green",
    "suspect": "yellow",
    "starting": "yellow",
    "down": "red",
    "quarantined": "bold red",
    "draining": "dim",
    "stopped": "dim",
}
_GROUP_STYLE = {"healthy": "green", "degraded": "yellow", "last": "red", "outage": "bold red"}


def ago(since: float) -> str:
    """Seconds since the epoch as "3 min", counted to now."""
    seconds = max(0.0, time.time() - since)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def render(report: StatusReport) -> Group:
    """Members, certificates, workers, counters."""
    return Group(
        _group(report.group),
        _members(report.members),
        _certificates(report.certificates),
        _workers(report),
        _counters(report),
    )


def _table(title: str, *columns: str) -> Table:
    table = Table(*columns, title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for column in table.columns:
        column.overflow = "fold"
    return table


def _members(members: list[MemberStatus]) -> Table:
    table = _table("Members", "name", "state", "partition and module", "sessions busy/total, answer time")
    for member in members:
        state = Text(f"{member.state} since {ago(member.since)}", style=_STYLE.get(member.state, ""))
        state.append(f"\nstarts: {member.starts}", style="")
        lines = [f"{member.module} {member.module_version}".rstrip()]
        if member.partition:
            lines.insert(0, f"{member.partition.label}, serial number {member.partition.serial}")
            lines += [f"the token says {flag}" for flag in worrying_flags(member.partition)]
        if member.state not in ("up", "starting"):
            lines.append(member.reason)
        lines += [f"does not serve {key}: {problem}" for key, problem in _key_problems(member).items()]
        lines += [
            f"makes no {several} with {key}: {why}"
            for key, lacking in member.lacking.items()
            for why, several in schemes.by_reason(lacking).items()
        ]
        if member.last_error and member.last_error != member.reason:
            lines.append(f"last error, {ago(member.last_error_at)} ago: {member.last_error}")
        if member.next_attempt:
            wait = max(0.0, member.next_attempt - time.time())
            lines.append(f"{member.attempts} attempts made, the next one in {wait:.1f} s")
        sessions = f"{member.sessions_busy}/{member.sessions_total}"
        table.add_row(member.name, state, "\n".join(lines), f"{sessions}\n{member.latency_ms:.1f} ms")
    return table


def _key_problems(member: MemberStatus) -> dict[str, str]:
    """Keys that this member does not serve, where that is not because of its state."""
    if member.state not in ("up", "suspect"):
        return {}
    return {key: problem for key, problem in member.keys.items() if problem}


def _group(group: GroupStatus) -> Text:
    text = Text(f"HA group {group.name}: " if group.high_availability else "no high availability: ")
    text.append(f"{group.state} since {ago(group.since)}", style=_GROUP_STYLE.get(group.state, ""))
    text.append(f", auto-recovery retries {group.auto_recovery_retry}, unavailable: {group.unavailable}")
    if group.waiting:
        text.append(f", {group.waiting} requests wait")
    return text


def _bytes(free: int | None, total: int | None) -> str:
    if total is None and free is None:
        return "not told"
    return f"{'?' if free is None else free} free of {'?' if total is None else total} bytes"


def _count(value: int | None, limit: int | None) -> str:
    return f"{'not told' if value is None else value} of {'no limit' if limit is None else limit}"


def _slots(name: str, inspected: Inspected) -> Table:
    table = _table(f"{name}: {inspected.module} ({inspected.module_version})", "slot", "partition", "reports")
    for slot in inspected.slots:
        one = slot.partition
        lines = [
            f"firmware {one.firmware}, {slot.hardware}",
            f"sessions {_count(slot.sessions, one.max_sessions)}, "
            f"read-write {_count(slot.rw_sessions, slot.max_rw_sessions)}",
            f"public memory {_bytes(slot.free_public_memory, slot.total_public_memory)}, "
            f"private {_bytes(slot.free_private_memory, slot.total_private_memory)}",
            f"flags {', '.join(one.flags)}",
            f"{len(slot.mechanisms)} mechanisms (--json lists them), to sign with our keys: "
            f"{', '.join(name for name in slot.mechanisms if name in _SIGNING)}",
        ]
        table.add_row(str(one.slot), f"{one.label}\nserial number {one.serial}\n{one.model}", "\n".join(lines))
    for number, problem in sorted(inspected.problems.items()):
        table.add_row(str(number), "", Text(problem, style="red"))
    return table


def _certificates(certificates: list[CertificateStatus]) -> Table:
    table = _table("Certificates", "", "for", "subject and key", "expires in")
    for one in certificates:
        days = (one.not_after - time.time()) / 86400
        proved = f"on the partition, proved by a signature of {', '.join(one.proved)}" if one.proved else "NOT PROVED"
        if one.refused:
            proved += ": clients are refused"
        lines = [one.subject, f"{one.key_type} {one.key}", proved]
        lines += [f"{member}: {problem}" for member, problem in one.problems.items()]
        left = Text(f"{days:.0f} days", style="red" if days < EXPIRES_SOON_DAYS else "")
        use = {"forward": f"forward-{one.name}", "inbound": f"inbound {one.name}"}.get(one.kind, one.authority)
        table.add_row("🔒" if one.proved else "⚠", use, "\n".join(lines), left)
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


def show_members(report: StatusReport) -> None:
    """Print the group and its members alone."""
    Console().print(Group(_group(report.group), _members(report.members)))


def show_info(report: InfoReport) -> None:
    """Print what each member's module tells."""
    console = Console()
    for name, inspected in report.modules.items():
        console.print(_slots(name, inspected))
    for name, problem in report.problems.items():
        console.print(f"{name}: {problem}", style="red")
