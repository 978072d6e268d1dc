"""Environment variables that vendors' libraries read, and which of them `init` writes down. Pure: reads no environment.

A member gets of the signer's environment what its configuration names, and a service has little of one: what is set on
the terminal where `init` finds the HSM would be missing there. No variable that holds a secret is here: what is written
down, others can read.
"""

from __future__ import annotations

from collections.abc import Mapping

CONFIGURATION = (
    "SOFTHSM2_CONF", "ChrystokiConfigurationPath", "CS_PKCS11_R3_CFG", "CS_PKCS11_R2_CFG", "YUBIHSM_PKCS11_CONF",
    "P11NETHSM_CONFIG_FILE", "KMS_PKCS11_CONFIG", "OPENSC_CONF", "KRYOPTIC_CONF",
)  # fmt: skip
"""Those that name a configuration file, or the directory that has it: of SoftHSM, Luna, Utimaco (two), YubiHSM, NetHSM,
Google's KMS, OpenSC, Kryoptic."""

_OTHERS = (
    "P11_KIT_SERVER_ADDRESS",
    "NSS_LIB_PARAMS",  # NSS softokn: where its database is
    "TPM2_PKCS11_STORE", "TPM2_PKCS11_TCTI", "TPM2_PKCS11_BACKEND",
    "DBUS_SESSION_BUS_ADDRESS", "DBUS_SYSTEM_BUS_ADDRESS",  # tpm2-abrmd, which a TPM's library talks to
    "PCSCLITE_CSOCK_NAME",  # pcscd, which a smart card's library talks to
    "CRYPTOSERVER",  # Utimaco's device
    "ET_HSM_NETCLIENT_SERVERLIST",  # ProtectToolkit
    "GOOGLE_APPLICATION_CREDENTIALS", "AWS_REGION", "AWS_PROFILE", "AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE",
    "LD_LIBRARY_PATH",  # the libraries that the library needs
)  # fmt: skip
_BEGINNINGS = ("CKNFAST_", "NFAST_")
"""nShield's: some forty, which say how its tokens, accelerator slots and logins behave."""


def read_by_vendors(environment: Mapping[str, str]) -> dict[str, str]:
    """Of an environment, what a vendor's library may read."""
    names = {*CONFIGURATION, *_OTHERS}
    return {
        name: value for name, value in environment.items() if value and (name in names or name.startswith(_BEGINNINGS))
    }
