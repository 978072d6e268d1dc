"""`hsmitm init` on partitions of all kinds: what it says, makes, uses and refuses. Partitions and members are real."""

from __future__ import annotations

import asyncio
import datetime as dt
import tomllib
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from bench.rig.faulty_module import FaultyModule
from bench.rig.quirks_module import QuirksModule
from hsm.certificates.ca import approve_ca
from hsm.errors import HsmitmError, MemberLostError, MisconfiguredError
from hsm.uri import KeyURI
from hsm.wire.member import Selector
from proxy.commands.init.init import initialise
from proxy.commands.init.wanted import Wanted
from tests.hsm.certificates.software import finished
from tests.hsm.token.children import look
from tests.hsm.token.objects import made, put_keys
from tests.integration.harness import hsmitm
from tests.softhsm import MODULE, Store, make_store

BESIDE = ec.generate_private_key(ec.SECP256R1())
P256, P521 = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP521R1())
ADVICE = "labelled 'hsmitm-forward-trust' and 'hsmitm-forward-untrust' with the HSM's own tool, then run init again"


@pytest.fixture(scope="module")
def shared(softhsm_module: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A partition with two CA keys of init's names (P-256), and two of other names."""
    keys = {"hsmitm-forward-trust": "p256", "hsmitm-forward-untrust": "p256", "ours": "p256", "other": "rsa-2048"}
    store = asyncio.run(make_store(tmp_path_factory.mktemp("init") / "store", keys, "luna1"))  # type: ignore[arg-type]
    put_keys(store, [made(P256, "imported", b"\1", "none"), made(P521, "large", b"\2")])
    put_keys(store, [made(BESIDE, "beside", b"\3", "certificate")])
    return store


@pytest.fixture
def empty(softhsm_module: str, tmp_path: Path) -> Store:
    """A partition without keys."""
    return asyncio.run(make_store(tmp_path / "store", {}, "luna1"))


class Said:
    """What an operator reads, and is asked."""

    def __init__(self, *, yes: bool = True) -> None:
        self.lines: list[str] = []
        self.asked = 0
        self._yes = yes

    def confirm(self, _: str) -> bool:
        """The operator's answer."""
        self.asked += 1
        return self._yes

    @property
    def text(self) -> str:
        """All of it."""
        return "\n".join(self.lines)


def wanted(store: Store, directory: Path, module: QuirksModule | FaultyModule | None = None, **more: Any) -> Wanted:
    """The command line for a partition that exists, by its label unless others are given."""
    variables = store.environment | (module.environment(MODULE) if module else {})
    named = {} if more.keys() & {"token", "serial", "slot"} else {"token": store.label}
    return Wanted(
        **({"token": None} | named | more),
        directory=directory,
        module=str(module.path) if module else MODULE,
        environment=tuple(f"{name}={value}" for name, value in variables.items()),
        pin_file=store.pin_file,
        listen="127.0.0.1:0",
        status_listen="",
    )


async def init(one: Wanted, said: Said | None = None) -> tuple[Said, dict[str, Any]]:
    """Do it: what was said, and hsmitm.toml."""
    said = said or Said()
    path = await initialise(one, said.lines.append, said.confirm)
    return said, tomllib.loads(path.read_text())


async def why_not(one: Wanted, said: Said | None = None) -> str:
    """What an operator reads of an init that makes nothing."""
    said = said or Said()
    with pytest.raises(HsmitmError) as caught:
        await initialise(one, said.lines.append, said.confirm)
    assert not (one.directory / "hsmitm.toml").exists()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def certificate(directory: Path, name: str) -> x509.Certificate:
    """The CA's."""
    return x509.load_pem_x509_certificate((directory / f"forward-{name}.pem").read_bytes())


# --- which partition, which keys --------------------------------------------------------------------------------------


async def test_a_partition_by_its_serial_or_slot(shared: Store, tmp_path: Path) -> None:
    """A partition whose label is empty or another's, too, is named by its serial number or its slot, and so it stands
    in hsmitm.toml, as in the keys' URIs."""
    there = (await look(shared.environment, MODULE, Selector(label="luna1"))).partition
    for option in ({"serial": there.serial}, {"slot": there.slot}):
        directory = tmp_path / next(iter(option))
        _, toml = await init(wanted(shared, directory, **option))
        (member,) = toml["hsm"]["members"]
        assert {name: member[name] for name in member.keys() & {"token", "serial", "slot"}} == option
        assert toml["forward"]["trust"]["key"] == str(KeyURI(object="hsmitm-forward-trust", serial=there.serial))


async def test_keys_that_are_there_are_named(shared: Store, tmp_path: Path) -> None:
    """--trust-key and --untrust-key use keys of any name; their types are told, and what is not guarded about them."""
    said, toml = await init(
        wanted(shared, tmp_path / "d", trust_key="pkcs11:object=ours", untrust_key="pkcs11:token=luna1;object=other")
    )
    assert "will use the key 'ours' (p256) on partition 'luna1'" in said.text
    assert "will use the key 'other' (rsa-2048)" in said.text
    assert "WARNING" not in said.text
    assert toml["forward"]["trust"]["key"] == "pkcs11:token=luna1;object=ours;type=private"
    assert toml["forward"]["untrust"]["key"] == "pkcs11:token=luna1;object=other;type=private"


async def test_a_certificate_finds_a_key_without_a_public_half(shared: Store, tmp_path: Path) -> None:
    """An imported key without any public object: init says what it lacks; with its certificate it is found, proved by a
    challenge, and told as what could have left."""
    directory = tmp_path / "d"
    one = wanted(shared, directory, trust_key="pkcs11:object=imported")
    assert "keeps no public half there, neither a public key object nor a certificate" in await why_not(one)
    approved = approve_ca("Ours", P256.public_key(), 9, dt.datetime.now(dt.UTC), 7)
    own = finished(approved, P256)
    (directory / "forward-trust.pem").write_bytes(own.public_bytes(Encoding.PEM))
    said, _ = await init(one)
    assert "will use the key 'imported'" in said.text
    assert "WARNING: the key 'imported' is not guarded: it cannot leave now, but CKA_NEVER_EXTRACTABLE is" in said.text
    assert certificate(directory, "trust") == own
    done = await asyncio.to_thread(hsmitm, "check", "--config", str(directory / "hsmitm.toml"))
    assert (
        "object=imported;type=private is not guarded: it cannot leave now, but CKA_NEVER_EXTRACTABLE is false, so it "
        "was imported, or could have left before"
    ) in done.stdout
    assert done.stdout.count("is not guarded") == 1


async def test_a_certificate_on_the_partition_tells_the_public_half(shared: Store, tmp_path: Path) -> None:
    """A key with a certificate object beside it, and no public key object, is used like any other."""
    said, _ = await init(wanted(shared, tmp_path / "d", trust_key="pkcs11:object=beside"))
    assert "will use the key 'beside' (p256)" in said.text
    assert certificate(tmp_path / "d", "trust").public_key() == BESIDE.public_key()


async def test_a_certificate_of_another_key_is_refused(shared: Store, tmp_path: Path) -> None:
    """A certificate that is there and is not the key's is not taken for its own."""
    directory = tmp_path / "d"
    await init(wanted(shared, directory))
    (directory / "hsmitm.toml").unlink()
    text = await why_not(wanted(shared, directory, trust_key="pkcs11:object=ours"))
    assert "is not the certificate of the key 'ours'" in text


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"trust_key": "pkcs11:object=absent"}, "--trust-key: no private key pkcs11:object=absent;type=private on"),
        ({"untrust_key": "pkcs11:object=hsmitm-forward-trust"}, "are one key on partition"),
        ({"trust_key": "pkcs11:object=large"}, "on secp521r1, for which TLS needs ecdsa_secp521r1_sha512"),
        ({"key_type": "rsa-2048"}, "--key-type rsa-2048 has no effect: the key 'hsmitm-forward-trust' on partition"),
        ({"serial": "0000"}, "no partition has serial '0000'"),
    ],
)
async def test_what_a_partition_does_not_allow(shared: Store, tmp_path: Path, more: dict[str, Any], text: str) -> None:
    """Nothing is made, nobody is asked, and the sentence says why."""
    said = Said()
    assert text in await why_not(wanted(shared, tmp_path / "d", **more), said)
    assert said.asked == 0


# --- what the CAs are -------------------------------------------------------------------------------------------------


async def test_the_cas_are_called_and_valid_as_wanted(shared: Store, tmp_path: Path) -> None:
    """--subject and --days; the CA that clients must not trust says so in its name."""
    directory = tmp_path / "d"
    await init(wanted(shared, directory, subject="CN=Example inspection,O=Example,C=CH", days=90))
    trust, untrust = certificate(directory, "trust"), certificate(directory, "untrust")
    assert trust.subject == x509.Name.from_rfc4514_string("CN=Example inspection,O=Example,C=CH")
    assert untrust.subject.rfc4514_string() == "CN=Example inspection: server not verified,O=Example,C=CH"
    assert abs(trust.not_valid_after_utc - dt.datetime.now(dt.UTC) - dt.timedelta(days=90)) < dt.timedelta(hours=1)
    (directory / "hsmitm.toml").unlink()
    for more in ({"subject": "CN=Another"}, {"days": 5}):
        assert "has no effect: both certificates exist" in await why_not(wanted(shared, directory, **more))


# --- tokens that make keys otherwise, or not --------------------------------------------------------------------------

NO_RSA, NO_EC = "missing CKM_RSA_PKCS_KEY_PAIR_GEN", "missing CKM_EC_KEY_PAIR_GEN"


async def test_what_the_partition_cannot_make_is_known_before(empty: Store, tmp_path: Path) -> None:
    """Mechanisms are looked at before anybody is asked to go on; the advice is what can be done."""
    said = Said()
    none = QuirksModule(tmp_path / "none", NO_RSA, NO_EC)
    text = await why_not(wanted(empty, tmp_path / "a", none), said)
    assert "lists no mechanisms that make a key and sign with it" in text
    assert f"make two signing keys {ADVICE}" in text
    no_ec = QuirksModule(tmp_path / "ec", NO_EC)
    text = await why_not(wanted(empty, tmp_path / "b", no_ec, key_type="p256"), said)
    assert text.endswith("it has them for rsa-2048, rsa-3072, rsa-4096")
    assert (said.asked, said.lines) == (0, [])


async def test_where_nobody_chose_a_type_one_is_made_that_the_partition_has(empty: Store, tmp_path: Path) -> None:
    """A token without RSA keys gets P-256 ones, and says so before it asks."""
    said = Said(yes=False)
    text = await why_not(wanted(empty, tmp_path / "a", QuirksModule(tmp_path / "q", NO_RSA)), said)
    assert text == "nothing was made"
    assert "will make the key 'hsmitm-forward-trust' (p256) on partition 'luna1'" in said.text


async def test_where_no_template_helps_the_last_word_is_advice(empty: Store, tmp_path: Path) -> None:
    """Every template is refused: what the HSM said, and what an operator can do."""
    refusing = QuirksModule(tmp_path / "q", "answer C_GenerateKeyPair 0x54")
    text = await why_not(wanted(empty, tmp_path / "d", refusing, key_type="p256"))
    assert "the partition makes no p256 key: CKR_FUNCTION_NOT_SUPPORTED (0x54)" in text
    assert "make a signing key labelled 'hsmitm-forward-trust' with the HSM's own tool, then run init again" in text


async def test_what_a_token_did_not_honour_is_a_warning(empty: Store, tmp_path: Path) -> None:
    """A key that can leave is made where the token makes no other, and init says so, of the attribute."""
    quirks = QuirksModule(tmp_path / "q", "attribute private CKA_EXTRACTABLE is 0x01")
    said, _ = await init(wanted(empty, tmp_path / "d", quirks, key_type="p256"))
    line = (
        "made the key 'hsmitm-forward-trust' (p256; WARNING: it can leave now, wrapped by another key: CKA_EXTRACTABLE"
    )
    assert line in said.text


async def test_an_hsm_that_is_lost_while_it_makes_a_key(empty: Store, tmp_path: Path) -> None:
    """The key may be there: init says so, is run again, uses it, and there is one."""
    faulty = FaultyModule(tmp_path / "f")
    one = wanted(empty, tmp_path / "d", faulty, key_type="p256")
    with faulty.fault("C_GenerateKeyPair rvafter 0x30"), pytest.raises(MemberLostError) as caught:
        await initialise(one, lambda _: None, lambda _: True)
    assert "the key 'hsmitm-forward-trust' may have been made: run init again, which uses it" in str(caught.value)
    said, _ = await init(one)
    assert "will use the key 'hsmitm-forward-trust' (p256)" in said.text
    assert faulty.calls("C_GenerateKeyPair") == 2


async def test_a_token_that_renames_keys(empty: Store, tmp_path: Path) -> None:
    """NetHSM calls a key by its id: hsmitm.toml names it so, and a second run finds the first one's mistake."""
    quirks = QuirksModule(tmp_path / "q", "attribute private CKA_LABEL is 6b1f label=hsmitm-forward-trust")
    said, toml = await init(wanted(empty, tmp_path / "d", quirks, key_type="p256"))
    assert "made the key '6b1f'" in said.text
    assert toml["forward"]["trust"]["key"] == "pkcs11:token=luna1;object=6b1f;type=private"


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"module": None, "token": None, "serial": "1"}, "--serial has no effect without --module"),
        ({"module": None, "token": "x"}, "--module and --token (or --serial, --slot) go together"),
        ({"module": None, "token": None, "pin_file": Path("pin")}, "--pin-file has no effect without --module"),
        ({"module": None, "token": None, "environment": ("A=B",)}, "--env has no effect without --module"),
        ({"module": None, "token": None, "trust_key": "pkcs11:object=a"}, "--trust-key has no effect without --module"),
        ({"token": "a", "slot": 0}, "give exactly one of the three"),
        ({"token": None}, "--module and --token go together"),
        ({"token": ""}, "--token is empty; name the partition by --serial or --slot"),
        ({"trust_key": "object=a"}, "--trust-key: a PKCS#11 URI starts with 'pkcs11:'"),
        ({"untrust_key": "pkcs11:object=a?pin-value=1"}, "--untrust-key: 'pin-value' does not belong in a URI"),
        ({"trust_key": "pkcs11:object=a", "untrust_key": "pkcs11:object=a"}, "name one key"),
        (
            {"trust_key": "pkcs11:object=a", "untrust_key": "pkcs11:object=b", "key_type": "p256"},
            "--key-type has no effect: both keys exist already",
        ),
        ({"key_type": "p521"}, "--key-type p521: use one of rsa-2048"),
        ({"days": 0}, "--days 0: use 1 to 9125"),
        ({"days": 9126}, "--days 9126: use 1 to 9125"),
        ({"subject": "Example"}, "--subject 'Example' is no name; write it as in"),
        ({"subject": "C=Switzerland"}, "--subject 'C=Switzerland' is no name (Attribute's length must be"),
        ({"subject": ""}, "--subject is empty; write it as in"),
        ({"subject": f"CN={'x' * 44}"}, "--subject: its CN has more than 43 characters"),
    ],
)
async def test_an_option_that_cannot_be_or_has_no_effect(tmp_path: Path, more: dict[str, Any], text: str) -> None:
    """Each is refused before anything is looked at."""
    given = {"directory": tmp_path / "d", "module": MODULE, "token": "x", "listen": "127.0.0.1:0", "status_listen": ""}
    one = Wanted(**(given | more))
    with pytest.raises(MisconfiguredError) as caught:
        await initialise(one, lambda _: None, lambda _: True)
    assert text in str(caught.value)
    assert not (tmp_path / "d").exists()
