"""[[upstream.client_certificates]] and the profiles that name them."""

from __future__ import annotations

from pathlib import Path

import pytest

from hsm.errors import MisconfiguredError
from proxy.config.worker import load

_OURS = '[[upstream.client_certificates]]\nname = "us"\ncertificate = "us.pem"\n'
_PRESENT = '[profiles.partner]\nclient_certificate = "present:{}"\n'


def _read(directory: Path, text: str) -> dict[str, tuple[Path, Path]]:
    (directory / "hsmitm.toml").write_text(text)
    found = load(directory / "hsmitm.toml").certificates
    return {name: (one.certificate, one.key) for name, one in found.items()}


def test_a_key_is_in_the_certificates_file_unless_it_has_one(tmp_path: Path) -> None:
    """Paths start from the directory of hsmitm.toml."""
    both = tmp_path / "us.pem"
    assert _read(tmp_path, _OURS + _PRESENT.format("us")) == {"us": (both, both)}
    assert _read(tmp_path, _OURS + 'key = "us.key"\n') == {"us": (both, tmp_path / "us.key")}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (_PRESENT.format("us"), "no [[upstream.client_certificates]] has the name 'us'; there are none"),
        (_OURS + _PRESENT.format("them"), "has the name 'them'; there are us"),
        (_OURS + _OURS, "upstream.client_certificates[1] 'us': name: another has it"),
        (_OURS.replace("us.pem", ""), "certificate"),
        (_OURS.replace('"us"', '"u s"'), "name"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, why: str) -> None:
    """With the table and the field."""
    with pytest.raises(MisconfiguredError) as caught:
        _read(tmp_path, text)
    assert why in str(caught.value)
