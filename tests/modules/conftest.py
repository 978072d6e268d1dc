"""An origin behind the proxies."""

from __future__ import annotations

from tests.integration.conftest import origin, origin_ca

__all__ = ["origin", "origin_ca"]
