"""Where a member's PIN comes from, as the configuration says it and as messages name it. The PIN is never in it."""

from __future__ import annotations

from msgspec import Struct


class PinSource(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Exactly one of: a file of mode 0400 or 0600; an environment variable of the signer; a command whose first line of
    output is the PIN; a systemd credential (`LoadCredential=`); or a prompt on the terminal at start.

    Or how a login goes without one: `empty` logs in with an empty PIN, `pad` has it typed at the HSM's own PIN pad at
    each start of the member, `none` does not log in at all.
    """

    file: str | None = None
    env: str | None = None
    command: list[str] | None = None
    credential: str | None = None
    prompt: bool = False
    empty: bool = False
    pad: bool = False
    none: bool = False

    def __post_init__(self) -> None:
        """Raise ValueError unless exactly one source is given."""
        words = [word or None for word in (self.prompt, self.empty, self.pad, self.none)]
        given = [self.file, self.env, self.command, self.credential, *words]
        if sum(source is not None for source in given) != 1:
            raise ValueError("give exactly one of file, env, command, credential, prompt, empty, pad, none")
        if self.command == []:
            raise ValueError("command: name the program to run, then its arguments")

    @property
    def remembered(self) -> bool:
        """Whether there is a PIN that can be remembered as refused: none is known of what somebody types at a pad."""
        return not (self.pad or self.none)

    def __str__(self) -> str:
        """The source, for messages; never the PIN."""
        if self.file is not None:
            return f"file {self.file}"
        if self.env is not None:
            return f"environment variable {self.env}"
        if self.command is not None:
            return f"command {self.command[0]}"
        if self.credential is not None:
            return f"systemd credential {self.credential}"
        return next(word for word in ("prompt", "empty", "pad", "none") if getattr(self, word))
