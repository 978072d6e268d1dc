"""`hsmitm check`, its part about the policy: how much of it there is, what ends, and what hardly matches."""

from __future__ import annotations

import datetime as dt

from proxy.commands.findings import Findings
from proxy.config.file import Config


def check_policy(config: Config, findings: Findings) -> None:
    """Say what the policy is. What is wrong in it stops every command, and was said before."""
    policy = config.file.compiled()
    rules, profiles = len(policy.rules), ", ".join(policy.profiles)
    findings.ok(
        f"policy {policy.version}: {rules} rule{'s' if rules != 1 else ''}, default {policy.default}, mode "
        f"{policy.mode}; profiles {profiles}"
    )
    for warning in policy.warnings(dt.datetime.now(dt.UTC)):
        findings.warn(warning)
