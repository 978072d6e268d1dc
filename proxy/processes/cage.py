"""The cage of a process that meets the network: put on by the process itself, then the program is executed in it.

`python -m proxy.processes.cage CAGE PROGRAM ARGUMENTS...`, with `Cage` as JSON. What it gives up, it gives up for good:
a user of its own, capabilities, new rights, and files beyond those that it needs (Landlock). It cannot be done between
fork and exec of the supervisor, whose threads forbid running Python there.
"""

from __future__ import annotations

import os
import sys

import msgspec
from msgspec import Struct

from proxy.processes import landlock, rights, view

_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
EX_CAGE = 97
"""The cage could not be put on; standard error says why."""


class Cage(Struct, frozen=True, kw_only=True):
    """What a process becomes. `uid` None stays the same user.

    `reads` are files, and directories with all beneath, that it may read and execute; of `lists` it sees the names in a
    directory; `writes` are directories where it may do everything; `reaches` are directories whose sockets it uses.
    `low_ports` keeps the right to listen below 1024. `confined` is whether Landlock keeps it to these files.
    """

    uid: int | None = None
    gid: int = -1
    groups: list[int] = []
    reads: list[str] = []
    lists: list[str] = []
    writes: list[str] = []
    reaches: list[str] = []
    low_ports: bool = False
    confined: bool = True

    def command(self, argv: list[str]) -> list[str]:
        """The command line that executes `argv` in it."""
        return [sys.executable, "-P", "-m", "proxy.processes.cage", msgspec.json.encode(self).decode(), *argv]

    def enter(self) -> None:
        """Put it on. Raises OSError."""
        if self.uid is not None:
            needed = [*self.reads, *self.lists, *self.writes, *self.reaches]
            view.open_to(needed, self.uid, {self.gid, *self.groups})
        rules = self._rules() if self.confined else None
        if os.geteuid() == 0:
            keep = [rights.NET_BIND_SERVICE] if self.low_ports else []
            rights.drop_capabilities(keep, self.uid, self.gid, self.groups)
        rights.no_new_privileges()
        if rules is not None:
            rules.restrict()

    def _rules(self) -> landlock.Rules:
        rules = landlock.Rules()
        rules.allow(landlock.READS, self.reads)
        rules.allow(landlock.LISTS, self.lists)
        rules.allow(landlock.WRITES, self.writes)
        rules.allow(landlock.DEVICES, _DEVICES)
        return rules


def main() -> None:
    """Entry point: put the cage on, execute the program in it."""
    try:
        msgspec.json.decode(sys.argv[1], type=Cage).enter()
        os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606  # no shell is wanted
    except OSError as error:
        sys.stderr.write(f"hsmitm cage: {error.strerror or error}: {error.filename or sys.argv[2]}\n")
        sys.exit(EX_CAGE)


if __name__ == "__main__":
    main()
