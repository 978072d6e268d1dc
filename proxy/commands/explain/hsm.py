"""What the running signer says of the HSM."""

from __future__ import annotations

from collections.abc import Callable

from hsm.errors import HsmitmError
from hsm.wire.admin import StatusReport
from proxy.commands.explain.report import HsmPart


def hsm(ask: Callable[[], StatusReport]) -> HsmPart:
    """From its report, which `ask` gets or raises HsmitmError for."""
    try:
        report = ask()
    except HsmitmError as error:
        return HsmPart(problem=str(error))
    up = tuple(one.name for one in report.members if one.state == "up")
    away = {one.name: one.last_error or one.reason or one.state for one in report.members if one.state != "up"}
    return HsmPart(
        running=True, state=report.group.state, in_service=up, away=away, unavailable=report.group.unavailable
    )
