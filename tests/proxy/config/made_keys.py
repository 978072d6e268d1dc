"""The CA keys that `hsmitm init` makes, as its hsmitm.toml names them."""

from __future__ import annotations

from hsm.uri import KeyURI
from hsm.wire.worker import Authority


def made_keys(partition: str) -> dict[Authority, KeyURI]:
    """Both, on the partition of this label."""
    return {
        "trust": KeyURI(token=partition, object="hsmitm-forward-trust"),
        "untrust": KeyURI(token=partition, object="hsmitm-forward-untrust"),
    }
