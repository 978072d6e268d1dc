"""PKCS#11 return codes (PKCS#11 v3.0, section 5.1.6): what each says about the session, the member, the request.

One table for the codes of the standard; vendors' own are in `hsm.vendor_codes`. A member process turns a code into an
error of ours with `error`, once, where it knows its vendor; the code and what it calls for travel with the error, and
everybody asks `called_for` what that means for the session and the member. Whom to blame is decided elsewhere
(`hsm.group.failover`, `hsm.member.health`), because one code alone cannot tell: CKR_GENERAL_ERROR is also what SoftHSM
says to a client's bad input.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

from hsm.errors import (
    HsmitmError,
    LoginError,
    MemberLostError,
    MisconfiguredError,
    PinRefusedError,
    RefusedError,
    SessionLostError,
)


class Kind(StrEnum):
    """What a code calls for."""

    SESSION = "session"
    """The session or its objects are stale, the partition may be sound: once more on a new session. A handle that
    outlives a re-initialisation can name *another* key, so key objects are never kept beside a new session."""
    PIN = "pin"
    """The login: never tried again."""
    REQUEST = "request"
    """The request is wrong, and would be anywhere: not retried, nobody is blamed."""
    PLACE = "place"
    """The installation is wrong: an operator must act."""
    BUSY = "busy"
    """The token has no room now: a peer at once, later this one, with fewer sessions. Nobody is blamed: it says nothing
    about health, and others may be using the token."""
    AMBIGUOUS = "ambiguous"
    """The member or the request: a peer's answer to the same request tells. Codes that are in no table are taken for
    this."""
    DEVICE = "device"
    """The HSM failed under the request: a peer, and the member is blamed."""
    PROCESS = "process"
    """The module's state is gone for the whole process (login, initialisation, slots): it is started again at once.
    That is also the way to log in again: one C_Login either way, and the PIN need not stay in the member's memory."""


_TABLE: dict[Kind, dict[int, str]] = {
    Kind.SESSION: {
        0x60: "CKR_KEY_HANDLE_INVALID",
        0x82: "CKR_OBJECT_HANDLE_INVALID",
        0x90: "CKR_OPERATION_ACTIVE",
        0x91: "CKR_OPERATION_NOT_INITIALIZED",
        0xB0: "CKR_SESSION_CLOSED",
        0xB3: "CKR_SESSION_HANDLE_INVALID",
        0x150: "CKR_BUFFER_TOO_SMALL",
    },
    Kind.PIN: {
        0xA0: "CKR_PIN_INCORRECT",
        0xA1: "CKR_PIN_INVALID",
        0xA2: "CKR_PIN_LEN_RANGE",
        0xA3: "CKR_PIN_EXPIRED",
        0xA4: "CKR_PIN_LOCKED",
        0x102: "CKR_USER_PIN_NOT_INITIALIZED",
        0x1B8: "CKR_PIN_TOO_WEAK",
    },
    Kind.REQUEST: {
        0x07: "CKR_ARGUMENTS_BAD",
        0x08: "CKR_NO_EVENT",
        0x10: "CKR_ATTRIBUTE_READ_ONLY",
        0x11: "CKR_ATTRIBUTE_SENSITIVE",
        0x12: "CKR_ATTRIBUTE_TYPE_INVALID",
        0x13: "CKR_ATTRIBUTE_VALUE_INVALID",
        0x1B: "CKR_ACTION_PROHIBITED",
        0x20: "CKR_DATA_INVALID",
        0x21: "CKR_DATA_LEN_RANGE",
        0x40: "CKR_ENCRYPTED_DATA_INVALID",
        0x41: "CKR_ENCRYPTED_DATA_LEN_RANGE",
        0x42: "CKR_AEAD_DECRYPT_FAILED",
        0x54: "CKR_FUNCTION_NOT_SUPPORTED",
        0x62: "CKR_KEY_SIZE_RANGE",
        0x63: "CKR_KEY_TYPE_INCONSISTENT",
        0x64: "CKR_KEY_NOT_NEEDED",
        0x65: "CKR_KEY_CHANGED",
        0x66: "CKR_KEY_NEEDED",
        0x67: "CKR_KEY_INDIGESTIBLE",
        0x68: "CKR_KEY_FUNCTION_NOT_PERMITTED",
        0x69: "CKR_KEY_NOT_WRAPPABLE",
        0x6A: "CKR_KEY_UNEXTRACTABLE",
        0x70: "CKR_MECHANISM_INVALID",
        0x71: "CKR_MECHANISM_PARAM_INVALID",
        0xB5: "CKR_SESSION_READ_ONLY",
        0xC0: "CKR_SIGNATURE_INVALID",
        0xC1: "CKR_SIGNATURE_LEN_RANGE",
        0xD0: "CKR_TEMPLATE_INCOMPLETE",
        0xD1: "CKR_TEMPLATE_INCONSISTENT",
        0xF0: "CKR_UNWRAPPING_KEY_HANDLE_INVALID",
        0xF1: "CKR_UNWRAPPING_KEY_SIZE_RANGE",
        0xF2: "CKR_UNWRAPPING_KEY_TYPE_INCONSISTENT",
        0x110: "CKR_WRAPPED_KEY_INVALID",
        0x112: "CKR_WRAPPED_KEY_LEN_RANGE",
        0x113: "CKR_WRAPPING_KEY_HANDLE_INVALID",
        0x114: "CKR_WRAPPING_KEY_SIZE_RANGE",
        0x115: "CKR_WRAPPING_KEY_TYPE_INCONSISTENT",
        0x130: "CKR_DOMAIN_PARAMS_INVALID",
        0x140: "CKR_CURVE_NOT_SUPPORTED",
        0x1B5: "CKR_EXCEEDED_MAX_ITERATIONS",
        0x1B9: "CKR_PUBLIC_KEY_INVALID",
        0x200: "CKR_FUNCTION_REJECTED",
        0x203: "CKR_KEY_EXHAUSTED",
    },
    Kind.PLACE: {
        0x09: "CKR_NEED_TO_CREATE_THREADS",
        0x0A: "CKR_CANT_LOCK",
        0xB6: "CKR_SESSION_EXISTS",
        0xB7: "CKR_SESSION_READ_ONLY_EXISTS",
        0xB8: "CKR_SESSION_READ_WRITE_SO_EXISTS",
        0xE2: "CKR_TOKEN_WRITE_PROTECTED",
        0x103: "CKR_USER_TYPE_INVALID",
        0x104: "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
        0x105: "CKR_USER_TOO_MANY_TYPES",
        0x1B6: "CKR_FIPS_SELF_TEST_FAILED",
        0x1B7: "CKR_LIBRARY_LOAD_FAILED",
    },
    Kind.BUSY: {
        0x31: "CKR_DEVICE_MEMORY",
        0xB1: "CKR_SESSION_COUNT",
        0x201: "CKR_TOKEN_RESOURCE_EXCEEDED",
    },
    Kind.AMBIGUOUS: {
        0x01: "CKR_CANCEL",
        0x05: "CKR_GENERAL_ERROR",
        0x06: "CKR_FUNCTION_FAILED",
        0x50: "CKR_FUNCTION_CANCELED",
    },
    Kind.DEVICE: {
        0x30: "CKR_DEVICE_ERROR",
        0x120: "CKR_RANDOM_SEED_NOT_SUPPORTED",
        0x121: "CKR_RANDOM_NO_RNG",
    },
    Kind.PROCESS: {
        0x02: "CKR_HOST_MEMORY",
        0x03: "CKR_SLOT_ID_INVALID",
        0x32: "CKR_DEVICE_REMOVED",
        0xE0: "CKR_TOKEN_NOT_PRESENT",
        0xE1: "CKR_TOKEN_NOT_RECOGNIZED",
        0x100: "CKR_USER_ALREADY_LOGGED_IN",
        0x101: "CKR_USER_NOT_LOGGED_IN",
        0x190: "CKR_CRYPTOKI_NOT_INITIALIZED",
        0x191: "CKR_CRYPTOKI_ALREADY_INITIALIZED",
        0x1A0: "CKR_MUTEX_BAD",
        0x1A1: "CKR_MUTEX_NOT_LOCKED",
    },
}

NAMES = {code: name for codes in _TABLE.values() for code, name in codes.items()}
_KINDS = {code: kind for kind, codes in _TABLE.items() for code in codes}

BAD_CIPHERTEXT = frozenset({0x20, 0x21, 0x40, 0x41})
"""What tokens say to wrong padding at C_Decrypt: CKR_ENCRYPTED_DATA_INVALID or CKR_ENCRYPTED_DATA_LEN_RANGE by the
standard (PKCS#11 v3.0 section 5.13), CKR_DATA_INVALID or CKR_DATA_LEN_RANGE by some. SoftHSM 2.6.1 says
CKR_GENERAL_ERROR, which is ambiguous."""

OF_NO_PIN = frozenset({0xA3, 0xA4, 0x102})
"""CKR_PIN_EXPIRED, CKR_PIN_LOCKED, CKR_USER_PIN_NOT_INITIALIZED: what the token says of any PIN. Once its security
officer has acted, the same one may be good."""

FORBIDDEN = frozenset({0x1B, 0x54, 0x62, 0x63, 0x68, 0x70, 0x71, 0x200})
"""What tokens say at C_SignInit or C_Sign to a mechanism that they list and do not allow, for this key or at all:
CKR_KEY_FUNCTION_NOT_PERMITTED (0x68), CKR_MECHANISM_INVALID and CKR_MECHANISM_PARAM_INVALID most often. A digest of the
right size in a scheme that was made before is no wrong request: a policy is new, or the key's handle is stale."""

GENERAL_ERROR = 0x05
SESSION_COUNT = 0xB1
USER_ALREADY_LOGGED_IN = 0x100
USER_TYPE_INVALID = 0x103
CRYPTOKI_NOT_INITIALIZED = 0x190


def name(code: int) -> str:
    """The standard's name of a return code with its value, or the value alone: `CKR_DEVICE_ERROR (0x30)`."""
    known = NAMES.get(code)
    return f"{known} (0x{code:x})" if known else f"PKCS#11 code 0x{code:x}"


def kind(code: int) -> Kind:
    """What `code` calls for. 0 stands for a loss without a code (a closed socket): the device's."""
    return _KINDS.get(code, Kind.AMBIGUOUS) if code else Kind.DEVICE


def called_for(error: HsmitmError) -> Kind:
    """What the code behind `error` calls for: by its member's word for a vendor's code, else by the table. A word that
    we do not know is a newer process's, and ambiguous."""
    if not error.calls_for:
        return kind(error.code)
    return next((one for one in Kind if one == error.calls_for), Kind.AMBIGUOUS)


def error(code: int, doing: str, vendors: Mapping[int, Kind] | None = None) -> HsmitmError:
    """The error of ours for `code`, met while `doing` (a phrase such as "signing"). `vendors` are the rows of the
    module's own codes."""
    message = f"{name(code)} while {doing}"
    own = vendors.get(code) if vendors and code not in NAMES else None
    calls_for = own or ""
    match own or kind(code):
        case Kind.SESSION:
            return SessionLostError(message, code, calls_for)
        case Kind.PIN:
            return (LoginError if code in OF_NO_PIN else PinRefusedError)(message, code, calls_for)
        case Kind.REQUEST:
            return RefusedError(message, code, calls_for)
        case Kind.PLACE:
            return MisconfiguredError(message, code, calls_for)
    return MemberLostError(message, code, calls_for)


def of(class_name: str, text: str) -> int:
    """The return code behind a python-pkcs11 exception, by its class and its text; 0 where it has none.

    Codes without a class, every vendor's among them, stand in the text alone: "Unmapped error code 0x68".
    """
    if class_name in _CLASSES:
        return _CLASSES[class_name]
    if found := re.search(r"error code 0x([0-9a-fA-F]+)", text):
        return int(found[1], 16)
    return next((code for words, code in _TEXTS.items() if words in text), 0)


_TEXTS = {
    "not initialized": CRYPTOKI_NOT_INITIALIZED,
    "already initialized": 0x191,
    "Buffer was too small": 0x150,
    "Parallel not supported": 0xB4,
    "User type invalid": 0x103,
}

_CLASSES = {
    "AnotherUserAlreadyLoggedIn": 0x104, "ArgumentsBad": 0x07, "AttributeReadOnly": 0x10, "AttributeSensitive": 0x11,
    "AttributeTypeInvalid": 0x12, "AttributeValueInvalid": 0x13, "DataInvalid": 0x20, "DataLenRange": 0x21,
    "DeviceError": 0x30, "DeviceMemory": 0x31, "DeviceRemoved": 0x32, "DomainParamsInvalid": 0x130,
    "EncryptedDataInvalid": 0x40, "EncryptedDataLenRange": 0x41, "ExceededMaxIterations": 0x1B5,
    "FunctionCancelled": 0x50, "FunctionFailed": 0x06, "FunctionNotSupported": 0x54, "FunctionRejected": 0x200,
    "GeneralError": 0x05, "HostMemory": 0x02, "KeyHandleInvalid": 0x60, "KeyIndigestible": 0x67, "KeyNeeded": 0x66,
    "KeyNotNeeded": 0x64, "KeyNotWrappable": 0x69, "KeySizeRange": 0x62, "KeyTypeInconsistent": 0x63,
    "KeyUnextractable": 0x6A, "MechanismInvalid": 0x70, "MechanismParamInvalid": 0x71, "NoEvent": 0x08,
    "ObjectHandleInvalid": 0x82, "OperationActive": 0x90, "OperationNotInitialized": 0x91, "PinExpired": 0xA3,
    "PinIncorrect": 0xA0, "PinInvalid": 0xA1, "PinLenRange": 0xA2, "PinLocked": 0xA4, "PinTooWeak": 0x1B8,
    "PublicKeyInvalid": 0x1B9, "RandomNoRNG": 0x121, "RandomSeedNotSupported": 0x120, "SessionClosed": 0xB0,
    "SessionCount": 0xB1, "SessionExists": 0xB6, "SessionHandleInvalid": 0xB3, "SessionReadOnly": 0xB5,
    "SessionReadOnlyExists": 0xB7, "SessionReadWriteSOExists": 0xB8, "SignatureInvalid": 0xC0,
    "SignatureLenRange": 0xC1, "SlotIDInvalid": 0x03, "TemplateIncomplete": 0xD0, "TemplateInconsistent": 0xD1,
    "TokenNotPresent": 0xE0, "TokenNotRecognised": 0xE1, "TokenWriteProtected": 0xE2,
    "UnwrappingKeyHandleInvalid": 0xF0, "UnwrappingKeySizeRange": 0xF1, "UnwrappingKeyTypeInconsistent": 0xF2,
    "UserAlreadyLoggedIn": 0x100, "UserNotLoggedIn": 0x101, "UserPinNotInitialized": 0x102, "UserTooManyTypes": 0x105,
    "WrappedKeyInvalid": 0x110, "WrappedKeyLenRange": 0x112, "WrappingKeyHandleInvalid": 0x113,
    "WrappingKeySizeRange": 0x114, "WrappingKeyTypeInconsistent": 0x115,
}  # fmt: skip
