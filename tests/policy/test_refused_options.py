"""mitmproxy's own ways past inspection: refused by `check` and at the start, from the file and from a script."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.harness import System, hsmitm

SCRIPT = """
from mitmproxy import ctx


def running():
    for name, value in (("ignore_hosts", ["bank"]), ("tcp_hosts", [".*"]), ("proxyauth", "any")):
        try:
            ctx.options.update(**{name: value})
        except Exception as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        except KeyError:
            pass
"""


@pytest.mark.parametrize(
    ("option", "instead"),
    [
        ('ignore_hosts = ["bank"]', 'use [policy]: a rule with action = "bypass"'),
        ('allow_hosts = ["bank"]', "use [policy]"),
        ('tcp_hosts = [".*"]', "use [policy]"),
        ('udp_hosts = [".*"]', "use [policy]"),
        ('proxyauth = "any"', "let the rules of [policy] say by from.networks who may go where"),
    ],
)
def test_an_option_that_makes_a_hole_is_refused(
    softhsm_module: str, tmp_path_factory: pytest.TempPathFactory, option: str, instead: str
) -> None:
    """`hsmitm check` names the option and says what to do instead; `run` does not begin."""
    system = _made(tmp_path_factory.getbasetemp() / "refused-options")
    text = system.toml.read_text()
    try:
        system.toml.write_text(
            f"{text}\n[mitmproxy.options]\n{option}\n".replace("\n[mitmproxy]\n", "\n[mitmproxy]\n", 1)
        )
        checked = hsmitm("check", "--config", str(system.toml))
        assert checked.returncode != 0
        name = option.partition(" ")[0]
        assert f"mitmproxy.options.{name} is not available: " in checked.stdout
        assert instead in checked.stdout
    finally:
        system.toml.write_text(text)


def _made(directory: Path) -> System:
    return System(directory) if directory.exists() else System.make(directory, workers="1")


def test_a_script_cannot_set_one_either(softhsm_module: str, tmp_path: Path) -> None:
    """While it runs it gets an OptionsError with the same words, and nothing changes."""
    system = System.make(tmp_path / "s", workers="1")
    (system.directory / "hole.py").write_text(SCRIPT)
    system.edit(scripts='["hole.py"]')
    with system:
        system.until_logged("OptionsError: the option ignore_hosts is not available: use [policy]")
        system.until_logged("OptionsError: the option tcp_hosts is not available: use [policy]")
