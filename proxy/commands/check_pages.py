"""`hsmitm check`, [pages]: the operator's own page is read as a worker will read it."""

from __future__ import annotations

from hsm.errors import MisconfiguredError
from proxy.commands.findings import Findings
from proxy.config.file import Config


def check_pages(config: Config, findings: Findings) -> None:
    """Say which values the template shows, or what is wrong with it."""
    section = config.file.pages
    if section.template is None:
        return
    try:
        template = section.html(config.base)
    except MisconfiguredError as error:
        findings.wrong(str(error))
    else:
        findings.ok(f"pages.template: {section.template} shows {', '.join(template.placeholders)}")
