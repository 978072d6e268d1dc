"""GnuTLS as this program uses it: its declarations, loading it, its errors as text. Others only load it.

cffi in ABI mode: no compiler is needed, and any libgnutls.so.30 will do (tried: 3.7.1, 3.7.9, 3.8.9). Distributions all
have one; the OpenSSL inside the `cryptography` wheel and Python's own `ssl` cannot use a key that lives elsewhere.
python-gnutls wraps the same library, for sockets and for keys in memory.
"""

from __future__ import annotations

import ctypes
import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import cffi  # type: ignore[import-untyped]  # ships no types
from OpenSSL import SSL

from hsm.errors import MisconfiguredError

NAME = "libgnutls.so.30"
OLDEST = "3.6.15"
"""Before 3.6.14 session tickets were encrypted with a key of zeros (CVE-2020-13777), and until 3.6.15 a server that was
told to speak TLS 1.3 alone still offered TLS 1.2."""

# What follows is from gnutls.h and abstract.h of GnuTLS 3.7.9; opaque pointers are void *, enumerations int.

AGAIN, INTERRUPTED = -28, -52
UNSUPPORTED_VERSION_PACKET = -8
FATAL_ALERT_RECEIVED, WARNING_ALERT_RECEIVED = -12, -16
MEMORY_ERROR, INTERNAL_ERROR = -25, -59
DECRYPTION_FAILED = -24
REHANDSHAKE = -37
NO_CERTIFICATE_FOUND = -49
PK_SIGN_FAILED = -46
NO_CERTIFICATE_STATUS = -340
CERTIFICATE_VERIFICATION_ERROR = -348

_DECLARATIONS = """
typedef struct { unsigned char *data; unsigned int size; } gnutls_datum_t;
typedef struct { void *pubkey; gnutls_datum_t cert; int type; } gnutls_pcert_st;
typedef struct { int type; unsigned char *data; unsigned int size; } gnutls_typed_vdata_st;
typedef void *(*gnutls_alloc_function)(size_t);
typedef void (*gnutls_free_function)(void *);
typedef int (*gnutls_privkey_sign_func)(void *key, int algo, void *userdata, unsigned int flags,
                                        const gnutls_datum_t *data, gnutls_datum_t *signature);
typedef int (*gnutls_privkey_decrypt_func)(void *key, void *userdata, const gnutls_datum_t *ciphertext,
                                           gnutls_datum_t *plaintext);
typedef void (*gnutls_privkey_deinit_func)(void *key, void *userdata);
typedef int (*gnutls_privkey_info_func)(void *key, unsigned int flags, void *userdata);
typedef int (*gnutls_status_request_ocsp_func)(void *session, void *ptr, gnutls_datum_t *ocsp_response);
typedef int (*gnutls_certificate_verify_function)(void *session);
typedef ssize_t (*gnutls_pull_func)(void *transport, void *data, size_t size);
typedef ssize_t (*gnutls_push_func)(void *transport, const void *data, size_t size);
typedef int (*gnutls_pull_timeout_func)(void *transport, unsigned int ms);

extern gnutls_alloc_function gnutls_malloc;
extern gnutls_free_function gnutls_free;
const char *gnutls_check_version(const char *req_version);
int gnutls_global_init(void);
const char *gnutls_strerror(int error);

int gnutls_priority_init(void **priority_cache, const char *priorities, const char **err_pos);
void gnutls_priority_deinit(void *priority_cache);

int gnutls_privkey_init(void **key);
void gnutls_privkey_deinit(void *key);
int gnutls_privkey_import_ext4(void *pkey, void *userdata, gnutls_privkey_sign_func sign_data,
    gnutls_privkey_sign_func sign_hash, gnutls_privkey_decrypt_func decrypt, gnutls_privkey_deinit_func deinit,
    gnutls_privkey_info_func info, unsigned int flags);
int gnutls_pcert_import_x509_raw(gnutls_pcert_st *pcert, const gnutls_datum_t *cert, int format, unsigned int flags);
void gnutls_pcert_deinit(gnutls_pcert_st *pcert);

int gnutls_certificate_allocate_credentials(void **res);
void gnutls_certificate_free_credentials(void *sc);
void gnutls_certificate_set_flags(void *sc, unsigned flags);
int gnutls_certificate_set_key(void *res, const char **names, int names_size, gnutls_pcert_st *pcert_list,
    int pcert_list_size, void *key);
int gnutls_certificate_set_known_dh_params(void *res, int sec_param);
int gnutls_certificate_set_x509_trust_mem(void *res, const gnutls_datum_t *ca, int format);
int gnutls_certificate_set_ocsp_status_request_function2(void *res, unsigned idx,
    gnutls_status_request_ocsp_func ocsp_func, void *ptr);

int gnutls_init(void **session, unsigned int flags);
void gnutls_deinit(void *session);
int gnutls_priority_set(void *session, void *priority);
int gnutls_credentials_set(void *session, int type, void *cred);
void gnutls_certificate_server_set_request(void *session, int req);
void gnutls_session_set_verify_function(void *session, gnutls_certificate_verify_function func);
int gnutls_certificate_verify_peers(void *session, gnutls_typed_vdata_st *data, unsigned int elements,
    unsigned int *status);
int gnutls_certificate_verification_status_print(unsigned int status, int type, gnutls_datum_t *out,
    unsigned int flags);
const gnutls_datum_t *gnutls_certificate_get_peers(void *session, unsigned int *list_size);
int gnutls_session_ticket_send(void *session, unsigned nr, unsigned flags);
int gnutls_session_ticket_enable_server(void *session, const gnutls_datum_t *key);
int gnutls_alpn_set_protocols(void *session, const gnutls_datum_t *protocols, unsigned protocols_size, unsigned flags);
void gnutls_transport_set_ptr(void *session, void *ptr);
void gnutls_transport_set_pull_function(void *session, gnutls_pull_func pull);
void gnutls_transport_set_push_function(void *session, gnutls_push_func push);
void gnutls_transport_set_pull_timeout_function(void *session, gnutls_pull_timeout_func func);
void gnutls_transport_set_errno(void *session, int err);

int gnutls_handshake(void *session);
ssize_t gnutls_record_recv(void *session, void *data, size_t data_size);
ssize_t gnutls_record_send(void *session, const void *data, size_t data_size);
int gnutls_bye(void *session, int how);
int gnutls_alert_send(void *session, int level, int desc);
int gnutls_alert_send_appropriate(void *session, int err);
int gnutls_alert_get(void *session);
const char *gnutls_alert_get_strname(int alert);

int gnutls_alpn_get_selected_protocol(void *session, gnutls_datum_t *protocol);
int gnutls_server_name_get(void *session, void *data, size_t *data_length, unsigned int *type, unsigned int indx);
int gnutls_session_is_resumed(void *session);
int gnutls_protocol_get_version(void *session);
int gnutls_kx_get(void *session);
int gnutls_cipher_get(void *session);
int gnutls_mac_get(void *session);
int gnutls_group_get(void *session);
const char *gnutls_group_get_name(int group);
const gnutls_datum_t *gnutls_certificate_get_ours(void *session);
const char *gnutls_cipher_suite_get_name(int kx, int cipher, int mac);
"""

ffi: Any = cffi.FFI()
ffi.cdef(_DECLARATIONS)


@functools.cache
def load(name: str = NAME, oldest: str = OLDEST) -> Any:
    """The library, loaded once. Its calls release the GIL; callbacks take it.

    Raises MisconfiguredError where `name` cannot be loaded, is no GnuTLS, or is older than `oldest`.
    """
    advice = f"inbound inspection needs GnuTLS {OLDEST} or later (package libgnutls30, libgnutls30t64 or gnutls)"
    try:
        ctypes.CDLL(name)  # for its error: cffi goes on to look for a compiler, and a caged worker reads of that
        # Never unloaded: sessions that the interpreter frees at its very end still call into it.
        library = ffi.dlopen(name, ffi.RTLD_NOW | ffi.RTLD_NODELETE)
        version = library.gnutls_check_version(ffi.NULL)
    except (OSError, AttributeError) as error:
        raise MisconfiguredError(f"{name} cannot be used: {error}; {advice}") from error
    if not library.gnutls_check_version(oldest.encode()):
        raise MisconfiguredError(f"{name} is GnuTLS {text(version)}, which is too old; {advice}")
    if (code := library.gnutls_global_init()) < 0:  # a failed self-test, in FIPS mode
        raise MisconfiguredError(f"{name} does not start: {text(library.gnutls_strerror(code))}")
    try:
        ffi.callback("gnutls_pull_timeout_func", lambda _transport, _ms: 0)
    except MemoryError as error:
        raise MisconfiguredError(
            f"{name} cannot call back: inbound inspection needs a process that may have executable memory (systemd: "
            "without MemoryDenyWriteExecute; SELinux: with execmem)"
        ) from error
    return library


def version() -> str:
    """Of the library that is loaded. Raises MisconfiguredError as `load`."""
    return text(load().gnutls_check_version(ffi.NULL))


class Callback:
    """A function of ours that GnuTLS may call. Made when it is first needed, because making it can fail: see `load`."""

    def __init__(self, declaration: str, function: Callable[..., int], error: int) -> None:
        self._made: list[Any] = []  # never freed: two threads may make it at once, and GnuTLS keep either
        self._make = functools.partial(ffi.callback, declaration, function, error)

    @property
    def native(self) -> Any:
        """The C function pointer."""
        if not self._made:
            self._made.append(self._make())
        return self._made[0]


def callback(declaration: str, *, error: int) -> Callable[[Callable[..., int]], Callback]:
    """Decorates a function that C calls as `declaration`. It should raise nothing; C gets `error` if it does."""
    return lambda function: Callback(declaration, function, error)


def text(characters: Any) -> str:
    """A C string; empty for NULL."""
    return ffi.string(characters).decode(errors="replace") if characters else ""


def reason(code: int) -> str:
    """What GnuTLS calls the error `code`."""
    return text(load().gnutls_strerror(code))


def check(code: int, doing: str) -> int:
    """`code` itself unless it is an error: then SSL.Error, shaped as pyOpenSSL's."""
    if code < 0:
        raise SSL.Error([("GnuTLS", doing, reason(code))])
    return code


def require(code: int, doing: str) -> None:
    """Raise MisconfiguredError if `code` is an error: what an operator gave us cannot be set up."""
    if code < 0:
        raise MisconfiguredError(f"GnuTLS refuses {doing}: {reason(code)}")


_contents: weakref.WeakKeyDictionary[Any, Any] = weakref.WeakKeyDictionary()


def datum(content: bytes) -> Any:
    """A `gnutls_datum_t *` to `content`, which lives as long as it."""
    memory = ffi.from_buffer("unsigned char[]", content)
    made = ffi.new("gnutls_datum_t *", (memory, len(content)))
    _contents[made] = memory
    return made


def fill(target: Any, content: bytes) -> int:
    """Put a copy of `content`, in memory that GnuTLS frees, into the gnutls_datum_t `target`. 0 or an error code."""
    memory = load().gnutls_malloc(len(content))
    if not memory:
        return MEMORY_ERROR
    ffi.memmove(memory, content, len(content))
    target.data = ffi.cast("unsigned char *", memory)
    target.size = len(content)
    return 0


class _Thread(threading.local):
    failure: BaseException | None = None


_thread = _Thread()


def leave(failure: BaseException) -> None:
    """For callbacks: C passes on a number alone, so what went wrong waits here for the caller on the same thread."""
    _thread.failure = failure


def left() -> BaseException | None:
    """What a callback on this thread left since this was last asked."""
    failure, _thread.failure = _thread.failure, None
    return failure
