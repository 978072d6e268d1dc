"""Who looks at what passes: what nobody asked for need not be kept."""

from __future__ import annotations

from mitmproxy import ctx


def looked_at(*hooks: str) -> bool:
    """Whether an addon that is none of ours has one of these hooks; so it is where no worker runs, as in tests."""
    master = getattr(ctx, "master", None)
    return master is None or any(
        hasattr(one, name)
        for one in master.addons.lookup.values()
        if not type(one).__module__.startswith("addons.")
        for name in hooks
    )
