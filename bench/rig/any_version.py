"""The configuration that `hsmitm init` has written, of whatever version, made fit for a measurement on one machine.

What an older version does not know stands in no line of its file, and nothing is put in.
"""

from __future__ import annotations

from pathlib import Path

from hsm.errors import MisconfiguredError

_WORKERS = "\nworkers = 0\n"
_LINES = {
    '\n# worker_environment = ["NAME"]\n': '\nworker_environment = ["LD_PRELOAD"]\n',
    "\nallow_destinations = []\n": '\nallow_destinations = ["127.0.0.0/8"]\n',
}
_OFFICE = {"new_names_per_s = 20.0": "new_names_per_s = 100000.0", "new_names_burst = 200": "new_names_burst = 1000000"}


def settled(text: str, roots: Path, *, office: bool) -> str:
    """`text` with one worker that verifies servers with `roots`, finds host names as its parent does, and may connect
    to this machine. With `office` one client asks for as many new names as a whole office.

    Raises MisconfiguredError where the file is not one of init's."""
    if _WORKERS not in text or "\nupstream_ca" in text:
        raise MisconfiguredError("this configuration is not as 'hsmitm init' writes it")
    text = text.replace(_WORKERS, f'\nworkers = 1\nupstream_ca = "{roots}"\n')
    for line, wanted in (_LINES | (_OFFICE if office else {})).items():
        text = text.replace(line, wanted)
    return text
