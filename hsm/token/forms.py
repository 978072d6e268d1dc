"""In which form a token makes each scheme with one of its keys: what it lists, corrected by what it was seen to do.

The sessions of a token share one of these for each key: what one of them found out, the others need not try.
"""

from __future__ import annotations

from collections.abc import Collection

from hsm.schemes import SCHEMES, Form, Scheme, forms_for


class Forms:
    """The forms worth trying, for one key. Its methods may be called from any thread."""

    def __init__(self, listed: Collection[int], signing: Collection[int]) -> None:
        """What the token lists, and what it says to sign with: as `hsm.schemes.forms_for` takes them."""
        found = {name: forms_for(scheme, listed, signing) for name, scheme in SCHEMES.items()}
        self._forms = {name: forms for name, forms in found.items() if forms}

    def __contains__(self, scheme: str) -> bool:
        """Whether the token lists a mechanism for the scheme of this name."""
        return scheme in self._forms

    def of(self, scheme: Scheme) -> tuple[Form, ...]:
        """The forms of `scheme`, the one to try first in front; empty where the token lists none."""
        return self._forms.get(scheme.name, ())

    def prefer(self, scheme: Scheme, form: Form) -> None:
        """`form` made the scheme where an earlier one was refused: it is the one to try first from now on."""
        self._forms[scheme.name] = (form, *(one for one in self.of(scheme) if one is not form))
