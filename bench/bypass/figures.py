"""What the turns of the bypass measurement add up to. No I/O."""

from __future__ import annotations

from bench.rig.server import Row

HSMITM, MITMDUMP, SQUID, ORIGIN = "hsmitm", "mitmdump", "squid", "no proxy"
_TARGETS = {"bypass_cpu_per_gb_over_mitmdump": 0.2, "bypass_cpu_per_gb_over_squid": 1.0}
"""At most: five times cheaper than mitmdump, no dearer than squid."""


def figures(rows: list[Row]) -> dict[str, float]:
    """CPU of each server, for a connection and for a GB, and ours over theirs; a peer that was not measured is left
    out."""
    at = {(one.server, one.phase): one for one in rows}
    found = {}
    for server in (HSMITM, MITMDUMP, SQUID):
        prefix = "" if server == HSMITM else f"{server}_"
        if row := at.get((server, "warm")):
            found[f"{prefix}bypass_cpu_ms_per_connection"] = row.cpu_ms
            found[f"{prefix}bypass_connections_per_s"] = row.per_s
        if row := at.get((server, "body")):
            found[f"{prefix}bypass_cpu_s_per_gb"] = row.cpu_ms  # ms for each MB
            found[f"{prefix}bypass_mb_per_s"] = row.per_s
    for peer in (MITMDUMP, SQUID):
        for name, figure in (("connection", "cpu_ms_per_connection"), ("gb", "cpu_s_per_gb")):
            ours, theirs = found.get(f"bypass_{figure}"), found.get(f"{peer}_bypass_{figure}")
            if ours is not None and theirs:
                found[f"bypass_cpu_per_{name}_over_{peer}"] = ours / theirs
    return found


def targets(found: dict[str, float]) -> list[str]:
    """Which targets are met, in sentences."""
    told = []
    for name, bound in _TARGETS.items():
        value = found.get(name)
        if value is None:
            told.append(f"target unknown: {name} at most {bound:g}, which was not measured")
        else:
            told.append(f"target {'met' if value <= bound else 'NOT met'}: {name} {value:.3g}, at most {bound:g}")
    return told
