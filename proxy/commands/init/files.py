"""Files that `init` writes: what they are called, and that none is overwritten."""

from __future__ import annotations

import json
import os
from pathlib import Path

from hsm.errors import MisconfiguredError


def key_label(name: str) -> str:
    """Of the CA key that `init` makes."""
    return f"hsmitm-forward-{name}"


def certificate_name(name: str) -> str:
    """The file of a CA's certificate."""
    return f"forward-{name}.pem"


def write(path: Path, text: str, mode: int) -> None:
    """A new file of this mode. Raises MisconfiguredError where one is there."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError:
        raise MisconfiguredError(f"{path} exists; it is not overwritten") from None
    except OSError as error:
        raise MisconfiguredError(f"cannot write {path}: {error.strerror}") from error
    with os.fdopen(descriptor, "w") as file:
        file.write(text)


def toml(value: object) -> str:
    """A string or a list of strings as TOML: JSON's, but for surrogate pairs and DEL, which TOML does not allow."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
