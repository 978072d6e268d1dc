"""The HTML of a page: ours, or the operator's own, with values in place of `{{ placeholders }}`. Pure.

Values are escaped for text and quoted attributes. A template that asks for a value that there is none of, or brings a
script, is refused when it is read: nobody looks at pages for failed connections before the day that one is needed.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping

MOST_BYTES = 65_536
PLACEHOLDERS = ("sentence", "host", "rule", "id", "contact", "status", "title")
"""What a template may ask for."""
NEEDED = ("sentence", "id")
"""What it must have: who asks for help needs them."""

_PLACE = re.compile(r"\{\{\s*(.*?)\s*\}\}", re.DOTALL)
_SCRIPT = re.compile(r"<\s*script\b|\bon[a-z]{3,}\s*=|javascript:", re.IGNORECASE)


class Template:
    """A template that was looked at."""

    def __init__(self, text: str) -> None:
        """Raises ValueError with what is wrong."""
        found = [one.group(1) for one in _PLACE.finditer(text)]
        for one in found:
            if one not in PLACEHOLDERS:
                raise ValueError(f"there is no placeholder {{{{ {one[:40]} }}}}; there are {', '.join(PLACEHOLDERS)}")
        if "{{" in _PLACE.sub("", text):
            raise ValueError("a placeholder is not closed: {{ without }}")
        for one in NEEDED:
            if one not in found:
                raise ValueError(f"{{{{ {one} }}}} is missing: who asks for help needs it")
        if script := _SCRIPT.search(text):
            raise ValueError(f"it has a script ({script.group().strip()}); pages run none")
        self.placeholders = tuple(one for one in PLACEHOLDERS if one in found)
        self._text = text

    @classmethod
    def parse(cls, content: bytes) -> Template:
        """From a file's content, which is UTF-8. Raises ValueError with what is wrong."""
        if len(content) > MOST_BYTES:
            raise ValueError(f"it has {len(content):,} bytes or more; {MOST_BYTES:,} are the most")
        try:
            return cls(content.decode())
        except UnicodeDecodeError:
            raise ValueError("it is not UTF-8") from None

    def filled(self, values: Mapping[str, str]) -> str:
        """With `values`, which has every placeholder."""
        return _PLACE.sub(lambda place: html.escape(values[place.group(1)]), self._text)


BUILT_IN = Template(
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ title }}</title>
<style>
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 38rem; margin: 15vh auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.4rem; } dt { color: #666; float: left; clear: left; width: 6rem; } dd { margin: 0 0 0 6rem; }
@media (prefers-color-scheme: dark) { body { background: #181818; color: #ddd; } dt { color: #999; } }
</style>
</head>
<body>
<h1>{{ title }}</h1>
<p>{{ sentence }}</p>
<dl>
<dt>Host</dt><dd>{{ host }}</dd>
<dt>Rule</dt><dd>{{ rule }}</dd>
<dt>Id</dt><dd>{{ id }}</dd>
<dt>Ask</dt><dd>{{ contact }}</dd>
</dl>
</body>
</html>
"""
)
