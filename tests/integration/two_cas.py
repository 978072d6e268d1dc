"""A forward proxy with a CA of each sort, for clients that verify one of them alone."""

from __future__ import annotations

import asyncio
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from hsm.wire.member import KeyFound
from tests.cas import make_ca
from tests.hsm.restricted import place_key
from tests.integration.harness import System
from tests.softhsm import Store


def with_rsa_ca(made: System) -> Path:
    """Give a proxy that has not started, and an EC CA, an RSA CA behind it ("old CA") on the same partition. A file
    with both."""
    (member,) = made.config.members()
    secret = (made.directory / "pin").read_text().strip()
    public = place_key(member.environment, "hsmitm", secret, "old", "rsa")
    store = Store(
        made.directory,
        "hsmitm",
        {"old": KeyFound(spki=public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))},
    )
    ca = asyncio.run(make_ca(store, "old", made.directory, pin=secret))
    text = made.toml.read_text().replace("[forward.trust]", "[[forward.trust]]")
    more = f'[[forward.trust]]\ncertificate = "{ca.name}"\nkey = "pkcs11:token=hsmitm;object=old;type=private"\n\n'
    made.toml.write_text(text.replace("[forward.untrust]", more + "[forward.untrust]"))
    both = made.directory / "both.pem"
    both.write_bytes(made.ca.read_bytes() + ca.read_bytes())
    return both
