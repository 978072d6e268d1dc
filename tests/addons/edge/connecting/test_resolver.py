"""Names to addresses: what is remembered, what is waited for, and who waits for whom."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import Counter

import pytest

from addons.edge.connecting import resolver as module
from addons.edge.connecting.resolver import Found, Resolver, TooManyLookupsError, system_lookup
from tests.waiting import until

_HERE: Found = (int(socket.AF_INET), ("192.0.2.1", 0))


class _Servers:
    """Name servers: those of names that begin with "silent" answer when they are told to, "none" has no address."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.speak = threading.Event()

    def __call__(self, name: str) -> tuple[Found, ...]:
        self.asked[name] += 1
        if name.startswith("silent"):
            self.speak.wait(20)
        if name.startswith("none"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return (_HERE,)


@pytest.fixture
def servers() -> _Servers:
    """Name servers that keep count."""
    return _Servers()


def _resolver(servers: _Servers, per_client: int = 4, lookup_s: float = 5.0, places: int = 64) -> Resolver:
    return Resolver(per_client=per_client, lookup_s=lookup_s, places=places, lookup=servers)


async def _begun(servers: _Servers, number: int) -> None:
    """So many look-ups have begun."""
    async with asyncio.timeout(5):
        while servers.asked.total() < number:
            await asyncio.sleep(0.001)


async def test_a_name_is_asked_for_once(servers: _Servers) -> None:
    """A hundred connections to one host cost one look-up, at the same time and later."""
    resolver = _resolver(servers)
    answers = await asyncio.gather(*(resolver.addresses("Host.example", f"c{i}") for i in range(50)))
    answers += [await resolver.addresses("host.EXAMPLE", "other") for _ in range(50)]
    assert answers == [(_HERE,)] * 100
    assert servers.asked == {"host.example": 1}


async def test_a_name_without_an_address_is_remembered_shortly(
    servers: _Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that does not exist is an error with a sentence, for a moment without asking again."""
    monkeypatch.setattr(module, "NEGATIVE_S", 0.05)
    resolver = _resolver(servers)
    for _ in range(3):
        with pytest.raises(OSError, match=r"none\.example has no address: Name or service not known"):
            await resolver.addresses("none.example", "c")
    assert servers.asked["none.example"] == 1
    async with asyncio.timeout(5):
        while servers.asked["none.example"] < 2:
            await asyncio.sleep(0.001)
            with pytest.raises(OSError, match="has no address"):
                await resolver.addresses("none.example", "c")


async def test_names_that_are_not_answered_are_given_up(servers: _Servers) -> None:
    """A client hears of a silent name server after the time that is set, and at once when it asks again."""
    resolver = _resolver(servers, lookup_s=0.1)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match=r"no name server has answered for silent.example within 0.1 s"):
        await resolver.addresses("silent.example", "c")
    assert 0.05 < time.monotonic() - began < 5
    with pytest.raises(OSError, match="no name server has answered"):
        await resolver.addresses("silent.example", "d")
    assert servers.asked["silent.example"] == 1
    assert resolver.in_progress == 1
    servers.speak.set()
    while resolver.in_progress:  # the late answer counts
        await asyncio.sleep(0.001)
    assert await resolver.addresses("silent.example", "c") == (_HERE,)


async def test_one_client_keeps_nobody_from_an_answer(servers: _Servers) -> None:
    """While a client has used up its look-ups with names that nobody answers for, others are served at once, and it
    is told that it has too many."""
    resolver = _resolver(servers, lookup_s=0.5)
    flood = [asyncio.create_task(resolver.addresses(f"silent{i}.example", "bad")) for i in range(100)]
    await _begun(servers, 4)
    began = time.monotonic()
    assert await resolver.addresses("good.example", "good") == (_HERE,)
    assert time.monotonic() - began < 0.25
    ends = await asyncio.gather(*flood, return_exceptions=True)
    assert sum(isinstance(one, TooManyLookupsError) for one in ends) == 96
    assert sum(isinstance(one, TimeoutError) for one in ends) == 4
    assert resolver.in_progress == 4
    assert await resolver.addresses("good.example", "bad") == (_HERE,), "what is known costs no look-up"
    servers.speak.set()


async def test_nobody_waits_in_another_clients_line(servers: _Servers) -> None:
    """A client that lets a popular name wait at the end of its own line slows down nobody who asks for it."""
    resolver = _resolver(servers, per_client=1)
    flood = [asyncio.create_task(resolver.addresses(name, "bad")) for name in ("silent.example", "popular.example")]
    await _begun(servers, 1)
    assert await asyncio.wait_for(resolver.addresses("popular.example", "good"), 1) == (_HERE,)
    servers.speak.set()
    assert await asyncio.gather(*flood) == [(_HERE,), (_HERE,)]
    assert servers.asked["popular.example"] == 1
    assert resolver.in_progress == 0


async def test_a_client_that_goes_away_takes_nothing_from_others(servers: _Servers) -> None:
    """Who leaves while a name is looked up takes the answer from nobody who waits for it, too."""
    resolver = _resolver(servers)
    leaving, staying = (asyncio.create_task(resolver.addresses("silent.example", c)) for c in ("a", "b"))
    await _begun(servers, 1)
    leaving.cancel()
    servers.speak.set()
    assert await staying == (_HERE,)


async def test_memory_has_a_bound(servers: _Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names that do not exist, ever new ones, push out none that do."""
    monkeypatch.setattr(module, "_REMEMBERED", 16)
    resolver = _resolver(servers)
    await resolver.addresses("host.example", "c")
    for i in range(50):
        with pytest.raises(OSError, match="has no address"):
            await resolver.addresses(f"none{i}.example", "c")
    await resolver.addresses("host.example", "c")
    assert servers.asked["host.example"] == 1
    assert len(resolver._failed._answers) == 4


async def test_a_host_that_moved_is_asked_for_again(servers: _Servers) -> None:
    """Once nothing answers at what is remembered, the name is looked up anew."""
    resolver = _resolver(servers)
    await resolver.addresses("host.example", "c")
    resolver.forget("Host.example")
    await resolver.addresses("host.example", "c")
    assert servers.asked["host.example"] == 2


@pytest.mark.parametrize("host", ["", "a" * 254, "a..b" + "ü", "\udcff.example", "x" * 300 + ".example", "a\0b"])
async def test_what_is_no_name_is_asked_of_nobody(servers: _Servers, host: str) -> None:
    """Bytes that no name can have are an error with a sentence, before anything is looked up."""
    with pytest.raises(OSError, match="is no host name"):
        await _resolver(servers).addresses(host, "c")
    assert not servers.asked


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7"])
async def test_an_address_needs_no_name_server(servers: _Servers, host: str) -> None:
    """Addresses are taken as they are."""
    ((_, address),) = await _resolver(servers).addresses(host, "c")
    assert address[:2] == (host, 0)
    assert not servers.asked


async def test_international_names_are_asked_for_as_leaves_have_them(servers: _Servers) -> None:
    """A name in other letters is looked up in the form that its certificate is checked for."""
    await _resolver(servers).addresses("bücher.example", "c")
    assert servers.asked == {"xn--bcher-kva.example": 1}


def test_the_machine_answers() -> None:
    """The machine's own resolver is asked: its hosts file, and spellings that the C library reads as an address."""
    assert (int(socket.AF_INET), ("127.0.0.1", 0)) in system_lookup("localhost")
    assert system_lookup("2130706433") == ((int(socket.AF_INET), ("127.0.0.1", 0)),)


def _threads() -> set[threading.Thread]:
    return {one for one in threading.enumerate() if one.name == "look-up"}


async def test_threads_are_used_again_and_few_are_kept(servers: _Servers) -> None:
    """One name after another takes one thread; of those that a hundred at a time took, eight wait for the next."""
    resolver, before = _resolver(servers, per_client=64), _threads()
    for number in range(20):
        await resolver.addresses(f"host{number}.example", "c")
    assert len(_threads() - before) == 1
    many = [asyncio.create_task(resolver.addresses(f"silent{i}.example", f"c{i}")) for i in range(40)]
    await _begun(servers, 60)
    assert len(_threads() - before) == 40
    servers.speak.set()
    await asyncio.gather(*many)
    await until(lambda: len(_threads() - before) == 8, "the others end")
    assert await resolver.addresses("after.example", "c") == (_HERE,)


async def test_without_a_thread_a_look_up_fails(servers: _Servers, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the machine gives no more threads a client is told so at once, and others are served when it does again."""
    resolver = _resolver(servers)

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", fail)
        with pytest.raises(OSError, match="no thread for a name look-up is to be had"):
            await resolver.addresses("host.example", "c")
    assert resolver.in_progress == 0
    assert await resolver.addresses("other.example", "c") == (_HERE,)


def test_a_worker_ends_without_waiting_for_name_servers(servers: _Servers) -> None:
    """A look-up that nobody answers does not hold up the end of the loop, and its late answer harms nothing."""
    failures: list[threading.ExceptHookArgs] = []
    hook, threading.excepthook = threading.excepthook, failures.append

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await _resolver(servers, lookup_s=0.05).addresses("silent.example", "c")

    before = _threads()
    try:
        began = time.monotonic()
        asyncio.run(main())
        assert time.monotonic() - began < 5
        servers.speak.set()
        for one in _threads() - before:
            one.join(5)
            assert not one.is_alive()
    finally:
        threading.excepthook = hook
    assert failures == []
