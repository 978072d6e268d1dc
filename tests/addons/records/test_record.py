"""A line of the decryption log."""

from __future__ import annotations

import json
from typing import Any, get_args, get_type_hints

import jsonschema
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from addons.records import record
from addons.records.facts import CertificateFacts, ErrorClass, Event, Facts, Failure, Mode
from addons.records.translation import to_record
from tests.addons.records import examples

_ENDED = 1_790_000_009.75
_VALIDATOR = jsonschema.Draft202012Validator(
    record.schema(), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
)


def _line(facts: Facts) -> bytes:
    return record.line(to_record(facts, _ENDED, worker=1))


def test_the_schema_is_one() -> None:
    """It can be handed to any validator, and its lists are those of the code."""
    schema = record.schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    ours = schema["properties"]["hsmitm"]["properties"]
    assert ours["error"]["properties"]["class"]["enum"] == list(get_args(ErrorClass))
    assert ours["mode"]["enum"] == list(get_args(Mode))
    assert schema["properties"]["event"]["properties"]["action"]["enum"] == list(get_args(Event))


def _names(schema: dict[str, Any], part: type[msgspec.Struct], definitions: dict[str, Any]) -> None:
    """Compare the names of a part and of the parts in it."""
    properties = (
        definitions[schema["$ref"].rpartition("/")[2]]["properties"] if "$ref" in schema else schema["properties"]
    )
    fields = {one.encode_name: one for one in msgspec.structs.fields(part)}
    assert set(fields) - {"client"} == set(properties) - {"client"}, part
    hints = get_type_hints(part)
    for name, one in fields.items():
        for kind in (hints[one.name], *get_args(hints[one.name])):
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and name in properties:
                _names(properties[name], kind, definitions)


def test_the_schema_has_the_names_of_the_code() -> None:
    """A field that is added to a record is added to the schema, too."""
    schema = record.schema()
    _names(schema, record.Record, schema["$defs"])


@pytest.mark.parametrize("facts", [examples.bare(), examples.decrypted()], ids=["bare", "decrypted"])
def test_records_keep_to_the_schema(facts: Facts) -> None:
    """A record that says little keeps to it as well as one that says everything."""
    made = _line(facts)
    assert made.endswith(b"\n")
    assert made.count(b"\n") == 1
    _VALIDATOR.validate(json.loads(made))


def test_a_record_has_the_names_that_log_systems_know() -> None:
    """ECS names where ECS has them, ours below hsmitm, and both legs."""
    told = json.loads(_line(examples.decrypted()))
    assert told["@timestamp"] == "2026-09-21T14:13:29.750000Z"
    assert told["event"]["action"] == "decrypted"
    assert told["source"] == {"ip": "10.1.2.3", "port": 50124, "bytes": 2048}
    assert told["destination"] == {"address": "shop.example.com", "ip": "192.0.2.7", "port": 443, "bytes": 9001}
    assert told["network"]["bytes"] == 11049
    assert told["user"]["name"] == "alice"
    assert told["tls"]["version"] == "1.3"
    assert told["tls"]["curve"] == "X25519MLKEM768"
    assert told["tls"]["resumed"] is False
    assert told["tls"]["client"] == {"server_name": "shop.example.com", "ja4": "t13d1516h2_8daaf6152771_e5627efa2ab1"}
    assert told["hsmitm"]["upstream"]["bytes"] == {"in": 8800, "out": 1900}
    assert told["hsmitm"]["upstream"]["tls"]["server"]["hash"]["sha256"] == "cd" * 32
    assert told["hsmitm"]["leaf"] == {"serial": "4f3a", "cache": "miss"}
    assert told["hsmitm"]["hsm"] == {"member": "LunaHSM1", "sign_ms": 3.25}
    assert told["hsmitm"]["verify"] == {"result": "ok", "code": 0, "depth": 0}


def test_a_failed_connection_says_why_or_is_no_record() -> None:
    """The schema refuses a failure without a class."""
    facts = examples.bare()
    facts.failure = None
    with pytest.raises(jsonschema.ValidationError):
        _VALIDATOR.validate(json.loads(_line(facts)))


@given(st.text(max_size=9000), st.lists(st.text(max_size=300), max_size=300), st.booleans())
def test_a_line_has_its_bound_and_keeps_to_the_schema_whatever_a_peer_says(
    text: str, several: list[str], surrogates: bool
) -> None:
    """Lines of several workers in one pipe do not mix: each is at most PIPE_BUF bytes, and what matters stays in it."""
    facts = examples.decrypted()
    given_text = text + ("\udc80" if surrogates else "")
    facts.event, facts.failure = "failed", Failure("server-untrusted", "server", given_text)
    facts.alpn = facts.addresses = tuple(several)
    facts.host = facts.sni = given_text
    facts.server_leg.certificate = CertificateFacts(given_text, given_text, "2026-12-01T00:00:00Z", "cd" * 32)
    made = _line(facts)
    assert len(made) <= record.MAX_BYTES
    assert made.count(b"\n") == 1
    told = json.loads(made)
    _VALIDATOR.validate(told)
    assert (told["event"]["id"], told["hsmitm"]["error"]["class"]) == (facts.id, "server-untrusted")


def test_what_is_no_record_is_told_from_one() -> None:
    """A reader passes over a line of something else without a traceback."""
    for one in (b"", b"{}", b"not json", b'{"event": 1}'):
        with pytest.raises(msgspec.DecodeError):
            record.read(one)
