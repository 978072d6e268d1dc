"""What becomes of a server, by its faults and the profile: complaints that OpenSSL itself made, in real handshakes."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import structs
from OpenSSL import SSL, crypto

from addons.policy.settings import Accept, Profile
from addons.records.facts import ErrorClass, Verification
from addons.revocation.answers import Answer, Status
from addons.upstream.connection import Demand, ServerConnection
from addons.upstream.judge import GOOD, Judgement, Outcome, judge, spki_sha256
from addons.upstream.stated import ask_for
from tests.addons.upstream.faulty import BETWEEN, CA, FAULTS, NOBODY, NOW, ROOT, Shown, shown

HOST = "shop.example"
_ALL = (
    "expired", "untrusted", "self_signed", "name_mismatch", "revoked", "status_unknown", "status_timeout", "weak_key",
    "incomplete_chain",
)  # fmt: skip
_WORDS: dict[str, Outcome] = {"block": "block", "untrusted": "untrust", "allow": "trust"}
CLASSES: dict[str, tuple[str, ErrorClass, str]] = {
    "expired": ("expired", "server-expired", "its certificate has expired (20"),
    "not yet valid": ("expired", "server-expired", "its certificate is not valid yet (but from 20"),
    "untrusted": ("untrusted", "server-untrusted", "was issued by a CA that is not trusted here"),
    "self-signed": ("self_signed", "server-self-signed", "its certificate is self-signed"),
    "incomplete chain": ("incomplete_chain", "server-incomplete-chain", "it did not send the certificates between"),
    "wrong name": ("name_mismatch", "server-name", "its certificate is for other names"),
    "RSA-1024": ("weak_key", "server-weak-key", "has a weak key (RSA of 1024 bits, where 2048 are wanted)"),
    "SHA-1": ("weak_key", "server-weak-key", "has a weak signature (made with SHA1)"),
    "wrong EKU": ("untrusted", "server-untrusted", "is not one for servers (extended key usage)"),
    "name constraints": ("untrusted", "server-untrusted", "may not issue any for this name (name constraints)"),
    "leaf is a CA": ("untrusted", "server-untrusted", "is that of a CA, and not of a server"),
}


def all_of(word: str, **others: object) -> Profile:
    """A profile that makes the same of each fault."""
    return structs.replace(Profile(), **dict.fromkeys(_ALL, word), **others)


def shaken(server: Shown, demand: Demand, roots: Sequence[CA] = (ROOT,)) -> ServerConnection:
    """Our end of a handshake with `server`, as far as it went."""
    theirs = SSL.Context(SSL.TLS_SERVER_METHOD)
    theirs.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
    theirs.use_privatekey(server.key)
    theirs.use_certificate(server.chain[0])
    for one in server.chain[1:]:
        theirs.add_extra_chain_cert(one)
    ours = SSL.Context(SSL.TLS_CLIENT_METHOD)
    for root in roots:
        store = ours.get_cert_store()
        assert store is not None
        store.add_cert(crypto.X509.from_cryptography(root.certificate))
    ends = SSL.Connection(theirs), ServerConnection(ours)
    ends[0].set_accept_state()
    ends[1].set_connect_state()
    ask_for(ends[1], demand.host)
    ends[1].watch(demand)
    for _ in range(4):
        for one, other in (ends[::-1], ends):
            with suppress(SSL.Error):
                one.do_handshake()
            with suppress(SSL.WantReadError):
                other.bio_write(one.bio_read(65536))
    return ends[1]


def judged(
    server: Shown,
    profile: Profile,
    accepts: Sequence[Accept] = (),
    at: dt.datetime = NOW,
    roots: Sequence[CA] = (ROOT,),
) -> Judgement:
    """The judgement on `server`, after a handshake that went on whatever there was."""
    made = shaken(server, Demand(HOST, profile, accepts, "block"), roots)
    assert made.get_verified_chain()
    return judge(made.complaints, made.built, profile, accepts, at, host=HOST)


def test_a_good_server_is_trusted() -> None:
    """A server without a fault needs no profile's mercy."""
    assert judged(shown("", HOST), all_of("block")) == GOOD


@pytest.mark.parametrize("word", _WORDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_what_the_profile_makes_of_it(fault: str, word: str) -> None:
    """Each fault has a class and a sentence, and becomes what is written for it, and not for another."""
    name, kind, words = CLASSES[fault]
    said = structs.replace(all_of("block" if word == "allow" else "allow"), **{name: word})
    found = judged(shown(fault, HOST), said)
    assert (found.outcome, found.kind, found.proved) == (_WORDS[word], kind, False)
    assert found.sentence.startswith(f"{HOST} did not prove who it is: ")
    assert words in found.sentence
    assert found.worst is not None
    assert found.worst.depth == 0


def test_the_built_in_profile_is_careful() -> None:
    """Without a word of the operator's: what has expired is not used, and what nobody vouches for is shown as such."""
    found = {fault: judged(shown(fault, HOST), Profile()).outcome for fault in FAULTS}
    assert {fault for fault, outcome in found.items() if outcome == "block"} == {"expired", "not yet valid"}
    assert set(found.values()) == {"untrust", "block"}


@pytest.mark.parametrize("first", [True, False])
def test_of_several_faults_the_worst_counts(first: bool) -> None:
    """An expired certificate for another name of a CA that nobody knows: one `block` among `allow` is enough."""
    server = NOBODY.issue(HOST, names=["other.example"], days=-1)
    blocked = "expired" if first else "name_mismatch"
    found = judged(server, structs.replace(all_of("allow"), **{blocked: "block"}))
    assert (found.outcome, found.kind) == ("block", CLASSES["expired" if first else "wrong name"][1])
    for words in ("has expired", "is for other names", "not trusted here"):
        assert words in found.sentence


def test_what_is_wrong_above_the_certificate_has_its_depth() -> None:
    """An intermediate that has expired is told apart from the server's own certificate."""
    old = CA("an old CA", ROOT, days=-1)
    found = judged(old.issue(HOST), Profile())
    assert (found.outcome, found.kind) == ("block", "server-expired")
    assert found.worst is not None
    assert found.worst.depth == 1
    assert "a certificate above its own (number 1) has expired" in found.sentence


def test_a_signature_that_was_forged_is_never_more_than_untrusted() -> None:
    """A certificate in a trusted CA's name, signed by somebody else."""
    forger = CA(BETWEEN.name, ROOT)
    server = forger.issue(HOST)
    server.chain[1:] = [BETWEEN.certificate]
    found = judged(server, Profile())
    assert (found.outcome, found.kind) == ("untrust", "server-untrusted")


@pytest.mark.parametrize(("size", "outcome"), [(1024, "trust"), (2048, "untrust"), (3072, "untrust")])
def test_the_profile_says_how_long_keys_must_be(size: int, outcome: Outcome) -> None:
    """OpenSSL has a limit of its own, which is the profile's only by chance."""
    found = judged(shown("RSA-1024", HOST), Profile(min_rsa=size))
    assert found.outcome == outcome


def test_an_old_signature_of_a_root_means_nothing() -> None:
    """A self-signed certificate is trusted or not, whatever its signature was made with."""
    alone = CA(HOST)
    server = alone.issue(HOST, key=alone.key, days=9)
    assert judged(server, Profile(), roots=(alone,)).outcome == "untrust"  # its issuer is none of the roots
    found = judged(shown("self-signed", HOST), structs.replace(all_of("block"), self_signed="allow"))
    assert found.outcome == "trust"


@pytest.mark.parametrize("status", ["revoked", "unknown", "timeout"])
@pytest.mark.parametrize("word", _WORDS)
def test_a_revocation_status_is_a_fault_as_others_are(status: Status, word: str) -> None:
    """A revoked certificate, one of which nothing is known, and one of which nothing was heard in time."""
    name = "revoked" if status == "revoked" else f"status_{status}"
    said = structs.replace(all_of("block" if word == "allow" else "allow"), **{name: word})
    found = judge([], shown("", HOST).chain, said, (), NOW, host=HOST, status=Answer(status, "words"))
    kind = "server-revoked" if status == "revoked" else f"status-{status}"
    assert (found.outcome, found.kind) == (_WORDS[word], kind)


@pytest.mark.filterwarnings("ignore::cryptography.utils.CryptographyDeprecationWarning")
def test_a_certificate_that_we_cannot_read_is_no_trouble() -> None:
    """OpenSSL reads more than we do: what it has said is judged, whatever a hostile server has written."""
    chance = random.Random(7)
    bases = [shown(fault, HOST).chain[0].public_bytes(Encoding.DER) for fault in ("", "incomplete chain", "RSA-1024")]
    accepts = [accepting(shown("", HOST))]
    read = 0
    for number in range(1500):
        spoilt = bytearray(bases[number % 3])
        for _ in range(chance.randint(1, 3)):
            spoilt[chance.randrange(len(spoilt))] = chance.randrange(256)
        try:
            certificate = x509.load_der_x509_certificate(bytes(spoilt))
        except (ValueError, x509.InvalidVersion):
            continue
        read += 1
        for code in (7, 9, 10, 20, 66):
            said = [Verification(code, 0, "so it is")]
            found = judge(said, [certificate], all_of("block"), accepts if code == 7 else (), NOW, host=HOST)
            assert found.outcome in ("block", "trust")
    assert read > 500


# [[upstream.accept]]


def accepting(server: Shown, expires: dt.date | None = None) -> Accept:
    """What `hsmitm upstream pin` would print for it."""
    return Accept(
        host=HOST, spki_sha256=spki_sha256(server.chain[0]), reason="CHG-1",
        expires=expires or (NOW + dt.timedelta(days=3)).date(),
    )  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_pinned_server_is_trusted_with_its_fault(fault: str) -> None:
    """One broken certificate is accepted by its key, whatever the profile says, and the fault is still told."""
    server = shown(fault, HOST)
    found = judged(server, all_of("block"), [accepting(server)])
    assert (found.outcome, found.kind) == ("trust", CLASSES[fault][1])


@pytest.mark.parametrize("word", _WORDS)
def test_another_key_than_the_pinned_one_is_refused(word: str) -> None:
    """Somebody else in the place of a pinned server is not what the profile says of others."""
    server = shown("self-signed", HOST)
    found = judged(shown("self-signed", HOST), all_of(word), [accepting(server)])
    assert (found.outcome, found.kind) == ("block", "server-self-signed")
    assert "is not the one that [[upstream.accept]] accepts" in found.sentence


def test_a_pinned_server_that_has_been_mended_is_simply_good() -> None:
    """With a certificate that verifies nobody needs to be accepted, whatever its key."""
    assert judged(shown("", HOST), Profile(), [accepting(shown("self-signed", HOST))]) == GOOD


@pytest.mark.parametrize(("days", "outcome"), [(0, "trust"), (-1, "block")])
def test_an_acceptance_ends_with_its_day(days: int, outcome: Outcome) -> None:
    """Through the last day (UTC), and not a day longer."""
    server = shown("self-signed", HOST)
    last = (NOW + dt.timedelta(days=days)).date()
    at = dt.datetime.combine(NOW.date(), dt.time(23, 59, 59), dt.UTC)
    found = judged(server, all_of("allow"), [accepting(server, last)], at)
    assert found.outcome == outcome
    assert (f"accepted that until {last}" in found.sentence) == (outcome == "block")


@pytest.mark.parametrize("said", ["unknown", "timeout"])
@pytest.mark.parametrize(("word", "outcome"), [("allow", "trust"), ("untrusted", "untrust"), ("block", "block")])
def test_a_status_that_nobody_tells_is_the_profiles_matter(said: Status, word: str, outcome: Outcome) -> None:
    """A site that was repaired, with another key or long after, is not refused for what its CA does not say: no
    acceptance is about that."""
    good = shown("", HOST)
    long_ago = accepting(good, (NOW - dt.timedelta(days=9)).date())
    for accepts in ([], [accepting(shown("self-signed", HOST))], [accepting(good)], [long_ago]):
        told = Answer(said, "so it is")
        assert judge([], good.chain, all_of(word), accepts, NOW, host=HOST, status=told).outcome == outcome


def test_what_is_revoked_is_accepted_by_nobody() -> None:
    """A CA says that the key is in wrong hands: that key is what was pinned."""
    server = shown("", HOST)
    found = judge(
        [], server.chain, Profile(), [accepting(server)], NOW, host=HOST, status=Answer("revoked", "it is revoked")
    )
    assert (found.outcome, found.kind) == ("block", "server-revoked")


# the handshake itself


@pytest.mark.parametrize("most", ["trust", "untrust"])
def test_a_handshake_that_nothing_can_come_of_ends_with_an_alert(most: Outcome) -> None:
    """The server's operator reads why, as from any client."""
    made = shaken(shown("expired", HOST), Demand(HOST, Profile(), (), most))
    assert made.cut
    assert made.judgement is None
    assert [one.code for one in made.complaints] == [10]
