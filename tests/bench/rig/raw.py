"""A PKCS#11 module called with ctypes, call by call, in a process of its own: what the module says, and not what a
library makes of it.

`RawModule` is the test's side: each public method of `_Loaded` can be asked for by its name.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from ctypes import byref, c_ulong
from multiprocessing import get_context
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.rig.faulty_module import FUNCTIONS

RW, SERIAL, USER = 2, 4, 1
UNAVAILABLE = 2**64 - 1
Template = list[tuple[int, bytes]]


class _Attribute(ctypes.Structure):
    _fields_ = (("type", c_ulong), ("value", ctypes.c_void_p), ("length", c_ulong))


class _Mechanism(ctypes.Structure):
    _fields_ = (("mechanism", c_ulong), ("parameter", ctypes.c_void_p), ("length", c_ulong))


def _attributes(template: Template) -> Any:
    made = (_Attribute * max(1, len(template)))()
    made.kept = [ctypes.create_string_buffer(value, max(1, len(value))) for _, value in template]
    for place, ((kind, value), buffer) in enumerate(zip(template, made.kept, strict=True)):
        made[place] = _Attribute(kind, ctypes.cast(buffer, ctypes.c_void_p), len(value))
    return made


class _Loaded:
    """The module in this process. Methods give the return code first where they give one."""

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._functions = self._function_list()

    def _function_list(self) -> Any:
        pointer = ctypes.c_void_p()
        self._library.C_GetFunctionList(byref(pointer))
        return ctypes.cast(pointer, ctypes.POINTER(ctypes.c_void_p))

    def _call(self, name: str, *arguments: Any) -> int:
        place = FUNCTIONS.index(name) + 1
        words = [ctypes.c_ulong(one) if isinstance(one, int) else one for one in arguments]
        return int(ctypes.CFUNCTYPE(c_ulong)(self._functions[place])(*words))

    def _list(self, name: str, *before: int) -> tuple[int, list[int]]:
        size = c_ulong()
        self._call(name, *before, None, byref(size))
        made = (c_ulong * size.value)()
        code = self._call(name, *before, made, byref(size))
        return code, list(made[: size.value])

    def pointers(self) -> int:
        """How many function lists two calls give."""
        return len({ctypes.cast(self._function_list(), ctypes.c_void_p).value for _ in range(2)})

    def initialize(self, locking: bool = True) -> int:
        """C_Initialize."""
        return self._call("C_Initialize", (c_ulong * 6)(0, 0, 0, 0, 2, 0) if locking else None)

    def finalize(self) -> int:
        """C_Finalize."""
        return self._call("C_Finalize", None)

    def slots(self) -> list[int]:
        """C_GetSlotList."""
        return self._list("C_GetSlotList", 1)[1]

    def mechanisms(self, slot: int) -> tuple[int, list[int]]:
        """C_GetMechanismList."""
        return self._list("C_GetMechanismList", slot)

    def mechanism_flags(self, slot: int, mechanism: int) -> tuple[int, int]:
        """C_GetMechanismInfo: flags."""
        info = (c_ulong * 3)()
        return self._call("C_GetMechanismInfo", slot, mechanism, info), info[2]

    def token(self, slot: int) -> tuple[int, str, int, int]:
        """C_GetTokenInfo: label, flags, limit of sessions."""
        info = ctypes.create_string_buffer(512)
        code = self._call("C_GetTokenInfo", slot, info)
        numbers = (c_ulong * 2).from_buffer_copy(info.raw[96:112])
        return code, info.raw[:32].decode().rstrip(), numbers[0], numbers[1]

    def open(self, slot: int, flags: int = RW) -> tuple[int, int]:
        """C_OpenSession: the handle."""
        session = c_ulong()
        return self._call("C_OpenSession", slot, flags | SERIAL, None, None, byref(session)), session.value

    def login(self, session: int, pin: str | None, user: int = USER) -> int:
        """C_Login; without a PIN one that is typed at a pad."""
        return self._call("C_Login", session, user, None if pin is None else pin.encode(), len(pin or ""))

    def find(self, session: int, template: Template) -> list[int]:
        """C_FindObjectsInit, C_FindObjects twice and C_FindObjectsFinal: the handles."""
        found: list[int] = []
        assert self._call("C_FindObjectsInit", session, _attributes(template), len(template)) == 0
        for _ in range(2):
            made, size = (c_ulong * 20)(), c_ulong()
            assert self._call("C_FindObjects", session, made, 20, byref(size)) == 0
            found += made[: size.value]
        assert self._call("C_FindObjectsFinal", session) == 0
        return found

    def attribute(self, session: int, key: int, kind: int) -> tuple[int, bytes | None]:
        """C_GetAttributeValue of one attribute; None where its length is "not available"."""
        wanted = _attributes([(kind, bytes(2000))])
        code = self._call("C_GetAttributeValue", session, key, wanted, 1)
        length = wanted[0].length
        return code, None if length == UNAVAILABLE else wanted.kept[0].raw[:length]

    def sign(self, session: int, key: int, mechanism: int, data: bytes = bytes(32)) -> tuple[int, int, bytes]:
        """The codes of C_SignInit and C_Sign, and the signature."""
        made, size = ctypes.create_string_buffer(600), c_ulong(600)
        code = self._call("C_SignInit", session, byref(_Mechanism(mechanism)), key)
        if code:
            return code, 0, b""
        code = self._call("C_Sign", session, data, len(data), made, byref(size))
        return 0, code, b"" if code else made.raw[: size.value]

    def sign_at_once(self, sessions: list[int], key: int, mechanism: int) -> list[int]:
        """A signature on each session, all at the same time: the code of each."""
        with ThreadPoolExecutor(len(sessions)) as pool:
            return [max(made[:2]) for made in pool.map(lambda one: self.sign(one, key, mechanism), sessions)]

    def decrypt(self, session: int, key: int, mechanism: int) -> int:
        """The code of C_DecryptInit."""
        return self._call("C_DecryptInit", session, byref(_Mechanism(mechanism)), key)

    def generate(self, session: int, mechanism: int, public: Template, private: Template) -> tuple[int, int, int]:
        """C_GenerateKeyPair: the handles, public half first."""
        halves, handles = (_attributes(public), len(public), _attributes(private), len(private)), (c_ulong * 2)()
        last = (byref(handles, 0), byref(handles, ctypes.sizeof(c_ulong)))
        code = self._call("C_GenerateKeyPair", session, byref(_Mechanism(mechanism)), *halves, *last)
        return code, handles[0], handles[1]

    def create(self, session: int, template: Template) -> int:
        """The code of C_CreateObject."""
        return self._call("C_CreateObject", session, _attributes(template), len(template), byref(c_ulong()))

    def random(self, size: int) -> int:
        """The code of C_GenerateRandom."""
        session = self.open(self.slots()[0])[1]
        return self._call("C_GenerateRandom", session, ctypes.create_string_buffer(size), size)


_loaded: _Loaded


def _load(path: str, environment: Mapping[str, str]) -> None:
    global _loaded  # noqa: PLW0603  # the one module of this process
    os.environ.update(environment)
    _loaded = _Loaded(path)


def _ask(name: str, arguments: tuple[Any, ...]) -> Any:
    return getattr(_loaded, name)(*arguments)


class RawModule:
    """A process with the module at `path` loaded in an `environment`; end it by leaving the context."""

    def __init__(self, path: Path, environment: Mapping[str, str]) -> None:
        """Nothing is called but C_GetFunctionList, at the first `ask`."""
        context = get_context("spawn")
        self._pool = ProcessPoolExecutor(1, context, initializer=_load, initargs=(str(path), dict(environment)))

    def __enter__(self) -> RawModule:
        """Ready."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        """End the process."""
        self._pool.shutdown()

    def ask(self, name: str, *arguments: Any) -> Any:
        """Call a method of the module there. Raises BrokenProcessPool where that ends the process."""
        return self._pool.submit(_ask, name, arguments).result(30)
