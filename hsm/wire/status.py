"""What the status page's process and the signer say to each other, on a socket of its own. No I/O, no clock.

One question, and nothing in it: who has this socket alone can ask how hsmitm is, and change nothing.
"""

from __future__ import annotations

from msgspec import Struct

from hsm.wire.frames import Codec
from hsm.wire.worker import Family

MAX_FAMILIES = 512 * 1024
"""Bytes of metrics in one answer. A signer of four members with eight busy workers has some 40 KiB."""


class Look(Struct, frozen=True, array_like=True, tag="look"):
    """How is hsmitm? -> `Seen`."""


class Seen(Struct, frozen=True, array_like=True, tag="seen"):
    """Why hsmitm is not ready, in a sentence, or empty where it is; and the counters of all processes.

    `omitted` metrics are left out, for the answer would have grown past MAX_FAMILIES.
    """

    unready: str
    families: list[Family]
    omitted: int = 0


CODEC: Codec[Look, Seen] = Codec(Look, Seen)
