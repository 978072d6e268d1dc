"""What the configuration may say of where a PIN comes from."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from hsm.secrets.settings import PinSource
from tests.hsm.secrets.secret import SECRET


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"prompt": False},
        {"empty": True, "none": True},
        {"file": "pin", "pad": True},
        {"file": "pin", "env": "TEST_PIN"},
        {"file": "pin", "prompt": True},
        {"env": "TEST_PIN", "command": ["true"]},
        {"command": ["true"], "credential": "hsm-pin"},
        {"file": "pin", "env": "TEST_PIN", "command": ["true"], "credential": "hsm-pin", "prompt": True},
    ],
    ids=" ".join,
)
def test_a_source_is_exactly_one(given: dict[str, Any]) -> None:
    """No source, or two of them, is an error of the configuration that names the choices."""
    with pytest.raises(ValueError, match="exactly one of file, env, command, credential, prompt"):
        PinSource(**given)
    with pytest.raises(msgspec.ValidationError, match="exactly one of"):
        msgspec.convert(given, PinSource)


def test_a_command_needs_a_program() -> None:
    """An empty command is an error of the configuration, not of the member's start."""
    with pytest.raises(ValueError, match="command"):
        PinSource(command=[])


def test_a_pin_itself_is_no_source() -> None:
    """A PIN written into the configuration is refused as an unknown field, and the refusal does not repeat it."""
    with pytest.raises(msgspec.ValidationError, match="unknown field") as caught:
        msgspec.convert({"value": SECRET}, PinSource)
    assert "4711" not in str(caught.value)
