"""PKCS#11 return codes (PKCS#11 v3.0, section 5.1.6) and which error of ours each becomes inside a member.

A code that is not here, a vendor's code among them, loses the member: the process starts afresh, which cures what can
be cured. The process logs in once when it starts; a token whose flags say that its PIN is at its final try is not
logged in to at all, so that even a vendor's own code for a wrong PIN cannot lock it.
"""

from __future__ import annotations

import re

from hsm.errors import HsmitmError, MemberLostError, MisconfiguredError, PinRefusedError, RefusedError, SessionLostError

SESSION = {
    0x60: "CKR_KEY_HANDLE_INVALID",
    0x82: "CKR_OBJECT_HANDLE_INVALID",
    0x90: "CKR_OPERATION_ACTIVE",
    0x91: "CKR_OPERATION_NOT_INITIALIZED",
    0xB0: "CKR_SESSION_CLOSED",
    0xB3: "CKR_SESSION_HANDLE_INVALID",
    0x150: "CKR_BUFFER_TOO_SMALL",
}
"""The session or its objects are stale; the partition may be sound. A handle that outlives a re-initialisation can name
*another* key, so key objects are never kept beside a new session."""

PIN = {
    0xA0: "CKR_PIN_INCORRECT",
    0xA1: "CKR_PIN_INVALID",
    0xA2: "CKR_PIN_LEN_RANGE",
    0xA3: "CKR_PIN_EXPIRED",
    0xA4: "CKR_PIN_LOCKED",
    0x102: "CKR_USER_PIN_NOT_INITIALIZED",
}

REQUEST = {
    0x07: "CKR_ARGUMENTS_BAD",
    0x10: "CKR_ATTRIBUTE_READ_ONLY",
    0x12: "CKR_ATTRIBUTE_TYPE_INVALID",
    0x13: "CKR_ATTRIBUTE_VALUE_INVALID",
    0x1B: "CKR_ACTION_PROHIBITED",
    0x20: "CKR_DATA_INVALID",
    0x21: "CKR_DATA_LEN_RANGE",
    0x54: "CKR_FUNCTION_NOT_SUPPORTED",
    0x62: "CKR_KEY_SIZE_RANGE",
    0x63: "CKR_KEY_TYPE_INCONSISTENT",
    0x64: "CKR_KEY_NOT_NEEDED",
    0x65: "CKR_KEY_CHANGED",
    0x66: "CKR_KEY_NEEDED",
    0x67: "CKR_KEY_INDIGESTIBLE",
    0x68: "CKR_KEY_FUNCTION_NOT_PERMITTED",
    0x70: "CKR_MECHANISM_INVALID",
    0x71: "CKR_MECHANISM_PARAM_INVALID",
    0xB5: "CKR_SESSION_READ_ONLY",
    0xD0: "CKR_TEMPLATE_INCOMPLETE",
    0xD1: "CKR_TEMPLATE_INCONSISTENT",
    0x140: "CKR_CURVE_NOT_SUPPORTED",
    0x200: "CKR_FUNCTION_REJECTED",
    0x203: "CKR_KEY_EXHAUSTED",
}

PLACE = {
    0x0A: "CKR_CANT_LOCK",
    0xE2: "CKR_TOKEN_WRITE_PROTECTED",
    0x104: "CKR_USER_ANOTHER_ALREADY_LOGGED_IN",
}

MEMBER = {
    0x02: "CKR_HOST_MEMORY",
    0x03: "CKR_SLOT_ID_INVALID",
    0x05: "CKR_GENERAL_ERROR",
    0x06: "CKR_FUNCTION_FAILED",
    0x30: "CKR_DEVICE_ERROR",
    0x31: "CKR_DEVICE_MEMORY",
    0x32: "CKR_DEVICE_REMOVED",
    0x50: "CKR_FUNCTION_CANCELED",
    0xB1: "CKR_SESSION_COUNT",
    0xE0: "CKR_TOKEN_NOT_PRESENT",
    0xE1: "CKR_TOKEN_NOT_RECOGNIZED",
    0x101: "CKR_USER_NOT_LOGGED_IN",
    0x190: "CKR_CRYPTOKI_NOT_INITIALIZED",
    0x191: "CKR_CRYPTOKI_ALREADY_INITIALIZED",
}

SESSION_COUNT = 0xB1
CRYPTOKI_NOT_INITIALIZED = 0x190
USER_ALREADY_LOGGED_IN = 0x100
NAMES = SESSION | PIN | REQUEST | PLACE | MEMBER | {USER_ALREADY_LOGGED_IN: "CKR_USER_ALREADY_LOGGED_IN"}


def name(code: int) -> str:
    """The standard's name of a return code with its value, or the value alone: `CKR_DEVICE_ERROR (0x30)`."""
    known = NAMES.get(code)
    return f"{known} (0x{code:x})" if known else f"PKCS#11 code 0x{code:x}"


def error(code: int, doing: str) -> HsmitmError:
    """The error of ours for `code`, met while `doing` (a phrase such as "signing")."""
    message = f"{name(code)} while {doing}"
    if code in SESSION:
        return SessionLostError(message, code)
    if code in PIN:
        return PinRefusedError(message)
    if code in REQUEST:
        return RefusedError(message)
    if code in PLACE:
        return MisconfiguredError(message)
    return MemberLostError(message, code)


def of(class_name: str, text: str) -> int:
    """The return code behind a python-pkcs11 exception, by its class and its text; 0 where it has none.

    Codes without a class, every vendor's among them, stand in the text alone: "Unmapped error code 0x68".
    """
    if found := re.search(r"0x([0-9a-fA-F]+)", text):
        return int(found[1], 16)
    if "not initialized" in text:
        return CRYPTOKI_NOT_INITIALIZED
    return _CLASSES.get(class_name, 0)


_CLASSES = {
    "AnotherUserAlreadyLoggedIn": 0x104, "ArgumentsBad": 0x07, "AttributeReadOnly": 0x10,
    "AttributeTypeInvalid": 0x12, "AttributeValueInvalid": 0x13, "DataInvalid": 0x20, "DataLenRange": 0x21,
    "DeviceError": 0x30, "DeviceMemory": 0x31, "DeviceRemoved": 0x32, "FunctionCancelled": 0x50,
    "FunctionFailed": 0x06, "FunctionNotSupported": 0x54, "FunctionRejected": 0x200, "GeneralError": 0x05,
    "HostMemory": 0x02, "KeyHandleInvalid": 0x60, "KeySizeRange": 0x62, "KeyTypeInconsistent": 0x63,
    "MechanismInvalid": 0x70, "MechanismParamInvalid": 0x71, "ObjectHandleInvalid": 0x82, "OperationActive": 0x90,
    "OperationNotInitialized": 0x91, "PinExpired": 0xA3, "PinIncorrect": 0xA0, "PinInvalid": 0xA1, "PinLenRange": 0xA2,
    "PinLocked": 0xA4, "SessionClosed": 0xB0, "SessionCount": 0xB1, "SessionHandleInvalid": 0xB3,
    "SessionReadOnly": 0xB5, "SlotIDInvalid": 0x03, "TemplateIncomplete": 0xD0, "TemplateInconsistent": 0xD1,
    "TokenNotPresent": 0xE0, "TokenNotRecognised": 0xE1, "TokenWriteProtected": 0xE2, "UserAlreadyLoggedIn": 0x100,
    "UserNotLoggedIn": 0x101, "UserPinNotInitialized": 0x102,
}  # fmt: skip
