"""Which environment variables `init` writes down for a member."""

from __future__ import annotations

import pytest

from hsm.vendor_variables import CONFIGURATION, read_by_vendors


@pytest.mark.parametrize(
    "name",
    [
        *CONFIGURATION,
        "NSS_LIB_PARAMS",
        "TPM2_PKCS11_STORE",
        "TPM2_PKCS11_TCTI",
        "DBUS_SESSION_BUS_ADDRESS",
        "CKNFAST_FAKE_ACCELERATOR_LOGIN",
        "NFAST_HOME",
        "GOOGLE_APPLICATION_CREDENTIALS",
        "P11_KIT_SERVER_ADDRESS",
        "LD_LIBRARY_PATH",
    ],
)
def test_what_a_library_reads_is_written_down(name: str) -> None:
    """A library finds in the service what it found on the terminal."""
    assert read_by_vendors({name: "a value", "PATH": "/bin"}) == {name: "a value"}


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "HSM_PIN", "VAULT_TOKEN", "HOME", "P11_KIT_DEBUG"])
def test_secrets_are_not(name: str) -> None:
    """What no library of a vendor's needs, or what is a secret, is not written into a file that others read."""
    assert read_by_vendors({name: "a value"}) == {}


def test_what_is_empty_is_left_out() -> None:
    """A variable that is set to nothing says nothing."""
    assert read_by_vendors({"LD_LIBRARY_PATH": ""}) == {}
