"""The HSM's own tool, as an administrator uses it beside hsmitm: in a process of its own, on the partition itself."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.softhsm import MODULE, PIN, Store

_OPEN = """
import sys, pkcs11
module, label, pin, *rest = sys.argv[1:]
session = pkcs11.lib(module).get_token(token_label=label).open(rw=True, user_pin=pin)
"""
_SET_PIN = """
session.set_pin(pin, rest[0])
"""
_MAKE_KEY = """
from pkcs11.util.ec import encode_named_curve_parameters
curve = {pkcs11.Attribute.EC_PARAMS: encode_named_curve_parameters("secp256r1")}
parameters = session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True)
parameters.generate_keypair(label=rest[0], id=rest[0].encode() + b" of the tool", store=True)
"""


def change_pin(store: Store, old: str, new: str) -> None:
    """C_SetPIN, as an administrator does who was told to change it."""
    _run(store, _SET_PIN, old, new)


def make_key(store: Store, label: str) -> None:
    """A P-256 key pair, whatever else has that label."""
    _run(store, _MAKE_KEY, PIN, label)


def _run(store: Store, script: str, pin: str, *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _OPEN + script, MODULE, store.label, pin, *arguments],
        env=os.environ | store.environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
