"""Inbound keys as a worker has them: a public key, and the signer to ask.

Their callables run on the threads of `addons.inbound.handshakes`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

from addons.gnutls.key import RemoteKey
from addons.inbound import handshakes
from hsm.certificates.files import inbound_name
from hsm.schemes import PublicKey
from hsm.wire.client import SignerClient
from hsm.wire.frames import Decrypted
from hsm.wire.worker import Reply, Request, TlsDecrypt, TlsSign, TlsSigned


class SignerKeys:
    """Makes keys that have the signer sign. It belongs to the event loop that `signer` runs on."""

    def __init__(self, signer: SignerClient, timeout_s: float) -> None:
        """`timeout_s` is how long a client may wait for one answer of the HSM."""
        self._signer = signer
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()

    def key(self, public: PublicKey, *, decrypts: bool) -> RemoteKey:
        """The private half of `public`. Raises ValueError for a kind of key that we do not sign with."""
        name = inbound_name(public)

        def sign(scheme: str, digest: bytes) -> bytes:
            answer = self._ask(TlsSign(name, scheme, digest))
            assert isinstance(answer, TlsSigned)
            step = handshakes.current()
            step.member, step.sign_ms = answer.member, answer.sign_ms
            return answer.signature

        def decrypt(ciphertext: bytes) -> bytes:
            answer = self._ask(TlsDecrypt(name, ciphertext))
            assert isinstance(answer, Decrypted)
            return answer.plaintext

        return RemoteKey(public, sign, decrypt if decrypts else None)

    def _ask(self, request: Request) -> Reply:
        """Ask on the event loop, and hold this thread until the answer is there."""
        step = handshakes.current()
        left_s = min(self._timeout_s, step.deadline - time.monotonic())
        question: Coroutine[Any, Any, Reply] = self._signer.call(request, left_s)
        answer: Reply = step.ask(question, self._loop)
        return answer
