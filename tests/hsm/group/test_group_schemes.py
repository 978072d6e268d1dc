"""Members of which not all make every scheme: who is asked for what, and what becomes of it when one is away."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hsm.errors import UnavailableError
from hsm.group.group import Group
from hsm.member.key import Key, inbound_key
from hsm.member.member import Member
from hsm.member.settings import Failover
from hsm.schemes import SCHEMES
from hsm.uri import KeyURI
from tests.hsm.members import MESSAGE, counted, hung, kill, make_group
from tests.hsm.restricted import PKCS1, PSS, RSA_PKCS, RSA_PSS, SHA256_RSA_PKCS, private_key, put_key
from tests.softhsm import Store, in_s, make_store
from tests.waiting import until

ALL = [*PKCS1, *PSS]
URI = KeyURI(object="shop")
QUIET = Failover(keep_alive_s=3600)
AllowedByMember = tuple[list[int], ...]


@pytest.fixture(scope="session")
def unequal(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Store]:
    """Partitions with one RSA key: one may do anything with it, one PKCS#1, one RSA-PSS, one PKCS#1 of messages."""

    async def make() -> dict[str, Store]:
        made = {}
        rows = {"all": [], "pkcs1": [RSA_PKCS], "pss": [RSA_PSS], "messages": [SHA256_RSA_PKCS]}
        for name, allowed in rows.items():
            made[name] = await make_store(tmp_path_factory.mktemp(name) / "store", {})
            put_key(made[name], "shop", "rsa", allowed)
        return made

    return asyncio.run(make())


@asynccontextmanager
async def grouped(
    unequal: dict[str, Store], *names: str, inbound: bool = True, failover: Failover = QUIET
) -> AsyncIterator[Group]:
    """A group m1, m2, ... on these partitions, with a site's key or a CA's."""
    public = private_key("rsa").public_key()
    site = inbound_key(URI, public, ("shop",))
    key = Key("shop", URI, public, site.scheme, None, site.others, ("shop",) if inbound else ())
    async with make_group([unequal[name] for name in names], failover, keys={"shop": key}) as group:
        yield group


async def ask(group: Group, name: str, timeout_s: float = 10) -> None:
    """A handshake's signature, in this scheme."""
    scheme, key = SCHEMES[name], group.keys["shop"]
    digest = scheme.digest(MESSAGE)
    signature = await group.sign("shop", None, digest, in_s(timeout_s), "tls", scheme)
    assert scheme.verifies(key.public, digest, signature)


def asked(member: Member) -> float:
    """Requests for handshakes that the member was sent."""
    names = "hsmitm_signatures_total", "hsmitm_signature_errors_total"
    return sum(counted(member._peers, one, member=member.name, purpose="tls") for one in names)


def offered(group: Group) -> list[str]:
    """What handshakes may be signed in."""
    return [one.name for one in group.schemes("shop")]


async def test_who_makes_a_scheme_is_asked_for_it(unequal: dict[str, Store]) -> None:
    """What some member makes is offered, and each request goes to those that make its scheme, however busy they are."""
    async with grouped(unequal, "pkcs1", "pss") as group:
        first, second = group.members
        assert offered(group) == ALL
        await asyncio.gather(*(ask(group, PKCS1[number % 3]) for number in range(60)))
        assert (asked(first), asked(second)) == (60, 0)
        await asyncio.gather(*(ask(group, PSS[number % 3]) for number in range(60)))
        assert (asked(first), asked(second)) == (60, 60)
        assert group.proved_by("shop") == ["m1", "m2"]
        assert group.proved_by("shop", "rsa_pss_rsae_sha256") == ["m2"]
        assert group.problems("shop") == {}
        assert list(group.problems("shop", "rsa_pss_rsae_sha256")) == ["m1"]


async def test_the_only_maker_of_a_scheme_restarts(unequal: dict[str, Store]) -> None:
    """A request whose scheme one member alone makes waits while that is started again; the others go on."""
    async with grouped(unequal, "pkcs1", "all") as group:
        second = group.members[1]
        with hung(second.pid):
            waiting = [asyncio.create_task(ask(group, "rsa_pss_rsae_sha256")) for _ in range(4)]
            await until(lambda: second.in_flight > 0, "it was asked")
            kill(second)
        await asyncio.gather(*waiting)
        assert second.starts == 2


async def test_the_only_maker_of_a_scheme_is_gone(unequal: dict[str, Store]) -> None:
    """Once the only member that makes a scheme is gone for good, that is not offered any more, and who asks for it all
    the same is told at once, and why."""
    async with grouped(unequal, "pkcs1", "all") as group:
        assert offered(group) == ALL
        await group.members[1].stop()
        assert offered(group) == PKCS1
        begun = time.monotonic()
        with pytest.raises(UnavailableError) as caught:
            await ask(group, "rsa_pss_rsae_sha256")
        assert time.monotonic() - begun < 0.5
        assert str(caught.value).startswith(
            "no member of the HSM in service makes rsa_pss_rsae_sha256 (m1: it did not sign a challenge: "
            "CKR_MECHANISM_INVALID (0x70) while signing; m2: member is stopped"
        )
        await ask(group, "rsa_pkcs1_sha256")


async def test_an_outage_withdraws_nothing(unequal: dict[str, Store]) -> None:
    """While no member is in service what they made last is offered, for they come back and are what they were."""
    async with grouped(unequal, "pkcs1") as group:
        (member,) = group.members
        assert offered(group) == PKCS1
        kill(member)
        await until(lambda: not member.serving, "it is gone")
        assert offered(group) == PKCS1
        await until(lambda: member.serving, "it is back")
        assert offered(group) == PKCS1
        await ask(group, "rsa_pkcs1_sha384")


async def test_a_new_process_proves_anew(unequal: dict[str, Store]) -> None:
    """A member that forbade a scheme for a while makes it again after it was reset."""
    async with grouped(unequal, "all") as group:
        (member,) = group.members
        assert member._life is not None
        member._life.held.made.lose("shop", "rsa_pss_rsae_sha256", "forbidden")
        assert "rsa_pss_rsae_sha256" not in offered(group)
        await group.reset("m1")
        assert offered(group) == ALL


async def test_a_cas_key_signs_in_what_it_makes(unequal: dict[str, Store]) -> None:
    """A CA's key is used in the first scheme that some member makes: by those that hash themselves, too, but only
    where it has to be in RSA-PSS."""
    for names, scheme in (
        (["messages"], "rsa_pkcs1_sha256"),
        (["pss"], "rsa_pss_rsae_sha256"),
        (["pss", "messages"], "rsa_pkcs1_sha256"),
    ):
        async with grouped(unequal, *names, inbound=False) as group:
            used, key = group.schemes("shop")[0], group.keys["shop"]
            assert used.name == scheme
            digest = used.digest(MESSAGE)
            signature = await group.sign("shop", MESSAGE, digest, in_s(10), "mint", used)
            assert used.verifies(key.public, digest, signature)
