"""How a private key's bytes can leave a token, or could have left it: what three attributes say together. No I/O."""

from __future__ import annotations


def exposure(sensitive: bool | None, extractable: bool | None, never_extractable: bool | None) -> str:
    """What is not as it should be, and whether the key can leave now; empty where it never could. None is what the
    token does not tell.

    A private half can be read where CKA_SENSITIVE is false and CKA_EXTRACTABLE is true, and be wrapped where
    CKA_EXTRACTABLE is true (PKCS#11 v3.0 section 4.9).
    """
    if extractable:
        if sensitive is False:
            return "it can leave now, in the clear: CKA_SENSITIVE is false and CKA_EXTRACTABLE is true"
        return "it can leave now, wrapped by another key: CKA_EXTRACTABLE is true"
    if extractable is None and not never_extractable:
        return "whether it can leave is not told: CKA_EXTRACTABLE"
    faults = []
    if never_extractable is False:
        faults.append("CKA_NEVER_EXTRACTABLE is false, so it was imported, or could have left before")
    elif never_extractable is None:
        faults.append("whether it ever could is not told: CKA_NEVER_EXTRACTABLE")
    if not sensitive:
        faults.append("CKA_SENSITIVE is " + ("not told" if sensitive is None else "false"))
    return f"it cannot leave now, but {' and '.join(faults)}" if faults else ""
