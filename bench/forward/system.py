"""A whole hsmitm for the forward measurement: one member, and an origin that is not Python's."""

from __future__ import annotations

from pathlib import Path

from bench.rig.system import System
from proxy.config import edit

_LOG = '\nfile = "decryption.jsonl"  # default: ""\n'


class ForwardSystem(System):
    """hsmitm with so many workers. Use it as an async context manager; `proxy` is then its address."""

    def __init__(
        self, directory: Path, *, roots: Path, workers: int, sessions: int, seed: int, rules: int = 0, log: bool = True
    ) -> None:
        """`roots` is the file with the CA that the origin is verified with. None of the policy's `rules` decides what
        becomes of the load's connections. `log`: there is a record of each."""
        super().__init__(directory, 1, key_type="rsa-2048", workers=workers, sessions=sessions, seed=seed)
        self._roots, self._rules, self._log = roots, rules, log

    async def prepare(self) -> None:
        """As System, with our own roots."""
        await super().prepare()
        (self.directory / "roots.pem").write_bytes(self._roots.read_bytes())
        path = self.directory / "hsmitm.toml"
        text = edit.read(path)
        if not self._log:
            assert _LOG in text
            text = text.replace(_LOG, '\nfile = ""\n')
        edit.write(path, f"{text}\n{rules(self._rules)}")


def rules(number: int) -> str:
    """So many [[policy.rules]], of the kinds that an administrator has many of, none for the load's hosts."""
    kinds = (
        'to = {{ domains = ["host-{0}.bank-{0}.example", ".shop-{0}.example"] }}\naction = "bypass"',
        'to = {{ domains = [".ads-{0}.example"], ports = [443, "8000-8099"] }}\naction = "block"',
        'from = {{ networks = ["10.{1}.{2}.0/24"] }}\nto = {{ domains = [".lab-{0}.example"] }}\naction = "decrypt"',
        'from = {{ networks = ["10.{1}.{2}.0/24"], users = ["user-{0}"] }}\naction = "block"',
    )
    made = [kinds[one % len(kinds)].format(one, one // 256, one % 256) for one in range(number)]
    return "\n".join(f'[[policy.rules]]\nname = "rule-{one}"\n{text}\n' for one, text in enumerate(made))
