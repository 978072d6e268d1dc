"""[pages] of hsmitm.toml: what clients see of connections that are blocked or failed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from addons.pages.template import BUILT_IN, MOST_BYTES, Template
from hsm import reading
from hsm.errors import MisconfiguredError
from proxy.config.section import Section


class PagesSection(Section, frozen=True):
    """[pages]: whom to ask, and the HTML of a page, where it is not the built-in one."""

    contact: Annotated[str, Meta(max_length=200)] = ""
    template: str | None = None

    def __post_init__(self) -> None:
        if not self.contact.isprintable():
            raise ValueError("contact: one line of text, please: it is shown as it stands here")

    def html(self, base: Path) -> Template:
        """The template; a relative path starts from `base`. Raises MisconfiguredError."""
        if self.template is None:
            return BUILT_IN
        path = base / self.template
        try:
            with reading.open_file(path) as file:
                return Template.parse(file.read(MOST_BYTES + 1))
        except FileNotFoundError:
            raise MisconfiguredError(f"pages.template: there is no file {path}") from None
        except OSError as error:
            raise MisconfiguredError(f"pages.template: cannot read {path}: {error.strerror}") from error
        except ValueError as error:
            raise MisconfiguredError(f"pages.template: {path}: {error}") from None
