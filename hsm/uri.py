"""PKCS#11 URIs (RFC 7512) that name a private key. Parsing only: no module, no PIN.

Own code because no maintained library on the package index parses these URIs without loading a PKCS#11 module with it
(python-pkcs11 has no URI support); the grammar needed for one private key is twenty lines over `urllib.parse.unquote`.
"""

from __future__ import annotations

import re
from urllib.parse import quote_from_bytes, unquote_to_bytes

from msgspec import Struct

_TEXT = {"token", "object", "serial", "manufacturer", "model"}
_KNOWN = _TEXT | {"id", "type"}
_SECRET = {"pin-value", "pin-source"}
_ELSEWHERE = {"module-path", "module-name", "slot-id", "slot-manufacturer", "slot-description", "library-manufacturer"}


class KeyURI(Struct, frozen=True):
    """What a `pkcs11:` URI says of one private key. Text is as CKA_LABEL and CK_TOKEN_INFO hold it; `id` is CKA_ID."""

    token: str | None = None
    object: str | None = None
    id: bytes | None = None
    serial: str | None = None
    manufacturer: str | None = None
    model: str | None = None

    def __str__(self) -> str:
        """The canonical URI, for messages and for `status`."""
        parts = []
        for field in ("token", "serial", "manufacturer", "model", "object"):
            value = getattr(self, field)
            if value is not None:
                parts.append(f"{field}={quote_from_bytes(value.encode(), safe='')}")
        if self.id is not None:
            parts.append("id=" + "".join(f"%{byte:02X}" for byte in self.id))
        return "pkcs11:" + ";".join([*parts, "type=private"])

    def anywhere(self) -> KeyURI:
        """The same key without its partition: its label and CKA_ID alone."""
        return KeyURI(object=self.object, id=self.id)


def parse(text: str) -> KeyURI:
    """The key that `text` names.

    Raises ValueError with a sentence that says what would be right. A PIN in a URI (RFC 7512 `pin-value`) is refused:
    it would stand in a file that is meant to be read by several users.
    """
    scheme, _, rest = text.partition(":")
    if scheme.lower() != "pkcs11" or not rest:
        raise ValueError("a PKCS#11 URI starts with 'pkcs11:' (RFC 7512), e.g. pkcs11:token=lunapartition1;object=ca")
    path, _, query = rest.partition("?")
    for item in filter(None, query.split("&")):
        _reject(item.partition("=")[0])
    found: dict[str, str | bytes] = {}
    for item in filter(None, path.split(";")):
        attribute, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"'{item}' has no value; write {item}=...")
        if attribute not in _KNOWN:
            _reject(attribute)
        if attribute in found:
            raise ValueError(f"attribute '{attribute}' stands twice")
        if re.search(r"%(?![0-9A-Fa-f]{2})", value):
            raise ValueError(f"attribute '{attribute}': a % must be followed by two hexadecimal digits (RFC 3986)")
        raw = unquote_to_bytes(value)
        try:
            found[attribute] = raw if attribute == "id" else raw.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"attribute '{attribute}' is not UTF-8 after percent-decoding") from error
    if found.pop("type", "private") != "private":
        raise ValueError("this must name a private key: type=private")
    if not found.get("object") and not found.get("id"):
        raise ValueError("name the key by its label (object=...) or its CKA_ID (id=%01%02...)")
    if "" in found.values() or b"" in found.values():
        raise ValueError("an attribute without a value would fit every key that has none; leave it out")
    return KeyURI(**found)  # type: ignore[arg-type]  # keys and types were checked one by one above


def _reject(attribute: str) -> None:
    if attribute in _SECRET:
        raise ValueError(f"'{attribute}' does not belong in a URI; give the PIN in the member's 'pin' instead")
    if attribute in _ELSEWHERE:
        raise ValueError(f"'{attribute}' belongs to the member ([[hsm.members]]), not to the key's URI")
    raise ValueError(f"unknown attribute '{attribute}'; known are {', '.join(sorted(_KNOWN))}")
