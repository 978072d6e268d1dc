"""nghttp2 as this program uses it: its declarations, loading it, its errors as text. Others only load it.

cffi in ABI mode, as for GnuTLS: no compiler is needed, and any libnghttp2.so.14 of 1.50 or later will do (tried: 1.52);
curl and most web servers bring it. Weighed against hyper-h2, which mitmproxy uses: 30 us of CPU for a request and its
response against 90, 5 us for 16 KiB of DATA received and given back against 30; and hyper-h2 has no bound of what a
header block inflates to before it has been inflated, and leaves the window to be given back at once.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Sequence
from typing import Any

import cffi  # type: ignore[import-untyped]  # ships no types

from hsm.errors import MisconfiguredError

NAME = "libnghttp2.so.14"
OLDEST = (1, 50, 0)
"""1.50 is the first that knows RFC 9113: white space around a value makes a message malformed (section 8.2.1)."""

# What follows is from nghttp2.h of 1.52.0; sessions, options and callbacks are opaque.

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE = range(9)
ALTSVC = 0x0A
FLAG_END_STREAM = FLAG_ACK = 0x01
HCAT_REQUEST, HCAT_RESPONSE, HCAT_PUSH_RESPONSE, HCAT_HEADERS = range(4)
(
    NO_ERROR, PROTOCOL_ERROR, INTERNAL_ERROR, FLOW_CONTROL_ERROR, SETTINGS_TIMEOUT, STREAM_CLOSED, FRAME_SIZE_ERROR,
    REFUSED_STREAM, CANCEL, COMPRESSION_ERROR, CONNECT_ERROR, ENHANCE_YOUR_CALM, INADEQUATE_SECURITY, HTTP_1_1_REQUIRED,
) = range(14)  # fmt: skip
ERR_DEFERRED, ERR_TEMPORAL, ERR_PAUSE, ERR_CALLBACK, ERR_FLOODED = -508, -521, -526, -902, -904
ERR_START_STREAM_NOT_ALLOWED, ERR_REFUSED_STREAM = -516, -533
ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE = 2, 3, 4, 6
DATA_EOF, DATA_NO_END_STREAM = 0x01, 0x02

_DECLARATIONS = """
typedef struct { int age; int version_num; const char *version_str; const char *proto_str; } nghttp2_info;
typedef struct { uint8_t *name; uint8_t *value; size_t namelen; size_t valuelen; uint8_t flags; } nghttp2_nv;
typedef struct { size_t length; int32_t stream_id; uint8_t type; uint8_t flags; uint8_t reserved; } nghttp2_frame_hd;
typedef struct { int32_t settings_id; uint32_t value; } nghttp2_settings_entry;
typedef struct { int32_t stream_id; int32_t weight; uint8_t exclusive; } nghttp2_priority_spec;
typedef struct { nghttp2_frame_hd hd; size_t padlen; nghttp2_priority_spec pri_spec; nghttp2_nv *nva; size_t nvlen;
                 int cat; } nghttp2_headers;
typedef struct { nghttp2_frame_hd hd; uint32_t error_code; } nghttp2_rst_stream;
typedef struct { nghttp2_frame_hd hd; int32_t last_stream_id; uint32_t error_code; const char *opaque_data;
                 size_t opaque_data_len; uint8_t reserved; } nghttp2_goaway;
typedef union { nghttp2_frame_hd hd; nghttp2_headers headers; nghttp2_rst_stream rst_stream; nghttp2_goaway goaway; }
    nghttp2_frame;
typedef union { int fd; void *ptr; } nghttp2_data_source;
typedef ssize_t (*nghttp2_data_source_read_callback)(void *session, int32_t stream_id, uint8_t *buf, size_t length,
    uint32_t *data_flags, nghttp2_data_source *source, void *user_data);
typedef struct { nghttp2_data_source source; nghttp2_data_source_read_callback read_callback; } nghttp2_data_provider;
typedef int (*nghttp2_on_frame_recv_callback)(void *session, const nghttp2_frame *frame, void *user_data);
typedef int (*nghttp2_on_invalid_frame_recv_callback)(void *session, const nghttp2_frame *frame, int lib_error_code,
    void *user_data);
typedef int (*nghttp2_on_data_chunk_recv_callback)(void *session, uint8_t flags, int32_t stream_id, const char *data,
    size_t len, void *user_data);
typedef int (*nghttp2_on_stream_close_callback)(void *session, int32_t stream_id, uint32_t error_code,
    void *user_data);
typedef int (*nghttp2_on_begin_headers_callback)(void *session, const nghttp2_frame *frame, void *user_data);
typedef int (*nghttp2_on_header_callback)(void *session, const nghttp2_frame *frame, const char *name, size_t namelen,
    const char *value, size_t valuelen, uint8_t flags, void *user_data);
typedef int (*nghttp2_on_invalid_header_callback)(void *session, const nghttp2_frame *frame, const char *name,
    size_t namelen, const char *value, size_t valuelen, uint8_t flags, void *user_data);
typedef int (*nghttp2_error_callback2)(void *session, int lib_error_code, const char *msg, size_t len,
    void *user_data);

nghttp2_info *nghttp2_version(int least_version);
const char *nghttp2_strerror(int lib_error_code);
const char *nghttp2_http2_strerror(uint32_t error_code);

int nghttp2_option_new(void **option_ptr);
void nghttp2_option_del(void *option);
void nghttp2_option_set_no_auto_window_update(void *option, int val);
void nghttp2_option_set_peer_max_concurrent_streams(void *option, uint32_t val);
void nghttp2_option_set_no_http_messaging(void *option, int val);
void nghttp2_option_set_max_send_header_block_length(void *option, size_t val);
void nghttp2_option_set_no_closed_streams(void *option, int val);
void nghttp2_option_set_max_outbound_ack(void *option, size_t val);
void nghttp2_option_set_builtin_recv_extension_type(void *option, uint8_t type);

int nghttp2_session_callbacks_new(void **callbacks_ptr);
void nghttp2_session_callbacks_set_on_frame_recv_callback(void *cbs, nghttp2_on_frame_recv_callback cb);
void nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(void *cbs, nghttp2_on_invalid_frame_recv_callback cb);
void nghttp2_session_callbacks_set_on_data_chunk_recv_callback(void *cbs, nghttp2_on_data_chunk_recv_callback cb);
void nghttp2_session_callbacks_set_on_stream_close_callback(void *cbs, nghttp2_on_stream_close_callback cb);
void nghttp2_session_callbacks_set_on_begin_headers_callback(void *cbs, nghttp2_on_begin_headers_callback cb);
void nghttp2_session_callbacks_set_on_header_callback(void *cbs, nghttp2_on_header_callback cb);
void nghttp2_session_callbacks_set_on_invalid_header_callback(void *cbs, nghttp2_on_invalid_header_callback cb);
void nghttp2_session_callbacks_set_error_callback2(void *cbs, nghttp2_error_callback2 cb);

int nghttp2_session_client_new2(void **session_ptr, const void *callbacks, void *user_data, const void *option);
int nghttp2_session_server_new2(void **session_ptr, const void *callbacks, void *user_data, const void *option);
void nghttp2_session_del(void *session);
ssize_t nghttp2_session_mem_recv(void *session, const uint8_t *in, size_t inlen);
ssize_t nghttp2_session_mem_send(void *session, const char **data_ptr);
int32_t nghttp2_session_get_last_proc_stream_id(void *session);
int nghttp2_session_want_read(void *session);
int nghttp2_session_want_write(void *session);
int nghttp2_session_consume(void *session, int32_t stream_id, size_t size);
int nghttp2_session_resume_data(void *session, int32_t stream_id);
int nghttp2_session_set_local_window_size(void *session, uint8_t flags, int32_t stream_id, int32_t window_size);
int nghttp2_session_terminate_session(void *session, uint32_t error_code);
int nghttp2_submit_settings(void *session, uint8_t flags, const nghttp2_settings_entry *iv, size_t niv);
int32_t nghttp2_submit_request(void *session, const nghttp2_priority_spec *pri_spec, const nghttp2_nv *nva,
    size_t nvlen, const nghttp2_data_provider *data_prd, void *stream_user_data);
int nghttp2_submit_response(void *session, int32_t stream_id, const nghttp2_nv *nva, size_t nvlen,
    const nghttp2_data_provider *data_prd);
int32_t nghttp2_submit_headers(void *session, uint8_t flags, int32_t stream_id, const nghttp2_priority_spec *pri_spec,
    const nghttp2_nv *nva, size_t nvlen, void *stream_user_data);
int nghttp2_submit_trailer(void *session, int32_t stream_id, const nghttp2_nv *nva, size_t nvlen);
int nghttp2_submit_rst_stream(void *session, uint8_t flags, int32_t stream_id, uint32_t error_code);
int nghttp2_submit_ping(void *session, uint8_t flags, const uint8_t *opaque_data);
int nghttp2_submit_goaway(void *session, uint8_t flags, int32_t last_stream_id, uint32_t error_code,
    const uint8_t *opaque_data, size_t opaque_data_len);
"""

ffi: Any = cffi.FFI()
ffi.cdef(_DECLARATIONS)


@functools.cache
def load(name: str = NAME, oldest: tuple[int, int, int] = OLDEST) -> Any:
    """The library, loaded once. Its calls release the GIL; callbacks take it.

    Raises MisconfiguredError where `name` cannot be loaded, is no nghttp2, is older than `oldest`, or cannot call back.
    """
    advice = f"HTTP/2 needs nghttp2 {_dotted(OLDEST)} or later (package libnghttp2-14, or libnghttp2)"
    try:
        ctypes.CDLL(name)  # for its error: cffi goes on to look for a compiler, and a caged worker reads of that
        # Never unloaded: sessions that the interpreter frees at its very end still call into it.
        library = ffi.dlopen(name, ffi.RTLD_NOW | ffi.RTLD_NODELETE)
        found = library.nghttp2_version(0)
        library.nghttp2_session_callbacks_set_error_callback2  # noqa: B018  # cffi looks a name up when it is asked for
    except (OSError, AttributeError) as error:
        raise MisconfiguredError(f"{name} cannot be used: {error}; {advice}") from error
    if not library.nghttp2_version(oldest[0] << 16 | oldest[1] << 8 | oldest[2]):
        raise MisconfiguredError(f"{name} is nghttp2 {text(found.version_str)}, which is too old; {advice}")
    try:
        ffi.callback("nghttp2_on_frame_recv_callback", lambda _session, _frame, _user: 0)
    except MemoryError as error:
        raise MisconfiguredError(
            f"{name} cannot call back: HTTP/2 needs a process that may have executable memory (systemd: without "
            "MemoryDenyWriteExecute; SELinux: with execmem)"
        ) from error
    return library


def version() -> str:
    """Of the library that is loaded. Raises MisconfiguredError as `load`."""
    return text(load().nghttp2_version(0).version_str)


def callback(declaration: str, *, error: int) -> Callable[[Callable[..., int]], Callable[[], Any]]:
    """Decorates a function that C calls as `declaration`; what it becomes gives the C pointer, made at its first use
    because making it can fail (see `load`). The function should raise nothing; C gets `error` if it does."""
    return lambda function: functools.cache(functools.partial(ffi.callback, declaration, function, error))


def text(characters: Any) -> str:
    """A C string; empty for NULL."""
    return ffi.string(characters).decode(errors="replace") if characters else ""


def reason(code: int) -> str:
    """What nghttp2 calls the error `code` of its own (negative), or of HTTP/2 (RFC 9113 section 7)."""
    library = load()
    return text(library.nghttp2_strerror(code) if code < 0 else library.nghttp2_http2_strerror(code))


def fields(pairs: Sequence[tuple[bytes, bytes]]) -> tuple[Any, int, object]:
    """Names and values as a `nghttp2_nv *` and their number, and what has to live as long as it."""
    if not pairs:
        return ffi.NULL, 0, None
    joined = b"".join([part for pair in pairs for part in pair])
    memory = ffi.from_buffer(joined)
    at = int(ffi.cast("uintptr_t", memory))
    packed: list[int] = []
    for name, value in pairs:
        behind = at + len(name)
        packed += (at, behind, len(name), len(value), 0)
        at = behind + len(value)
    # Five assignments through cffi for each field would take four times as long as one call of `struct`.
    entries = ffi.from_buffer("nghttp2_nv[]", struct.pack("PPNNQ" * len(pairs), *packed))
    return entries, len(pairs), (memory, entries)


def _dotted(numbers: tuple[int, int, int]) -> str:
    return ".".join(map(str, numbers))
