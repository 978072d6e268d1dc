"""The rules of the house, read from the code: who may import whom, how large things are, and that the maps are true.

Each rule looks at a `House` and returns its faults in words. It is held against this checkout, and then against a small
house with a fault in it: a rule that cannot fail guards nothing.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.house import ROOT, TOP, House, circles, named_in_map, room

Rule = Callable[[House], Iterator[str]]

MAY_IMPORT: dict[str, set[str]] = {
    "hsm": {"hsm"},
    "hsm.wire": {"hsm", "hsm.wire"},
    "hsm.certificates": {"hsm", "hsm.certificates"},
    "hsm.secrets": {"hsm", "hsm.secrets"},
    "hsm.token": {"hsm", "hsm.wire", "hsm.token"},
    "hsm.member": {"hsm", "hsm.wire", "hsm.secrets", "hsm.certificates.files", "hsm.member"},
    "hsm.group": {"hsm", "hsm.wire", "hsm.member", "hsm.group"},
    "hsm.signer": {"hsm", "hsm.wire", "hsm.certificates", "hsm.secrets", "hsm.member", "hsm.group", "hsm.signer"},
    "addons": {"hsm", "hsm.wire", "hsm.certificates.files", "addons"},
    "proxy": {"hsm", "addons", "proxy"},
    "bench": {"hsm", "addons", "proxy", "bench"},
}
"""For a room, or all rooms of a house: the rooms, houses or single modules that it may import from. As a value hsm is
its words, the files that stand in no room; addons, proxy and bench mean everything in them."""

BENCH_MAY_IMPORT: dict[str, set[str]] = {
    "report": set(),
    "sign": {"report"},
    "mint": {"report", "sign"},
    "plan": {"report", "sign", "mint"},
    "rig": {"report"},
    "forward": {"report", "rig"},
    "bypass": {"report", "rig"},
    "inbound": {"report", "rig"},
    "soak": {"report", "rig"},
    "fuzz": {"report", "rig"},
    "edge": {"report", "rig"},
}
"""Between the rooms of bench/. The first four are in the wheel, so they need nothing that is not: `bench.checkout`, in
no room itself, asks for the rig where there is one."""

KEY_SIDE = ("token", "member", "group", "signer", "secrets", "audit")
"""The rooms of hsm/ that a worker must never load: they know PINs, partitions and CA keys."""

SERVICES = {"asyncio", "socket", "subprocess", "threading", "multiprocessing", "ssl", "http"}
"""What a file of settings has no business with."""

LONGEST_FILE, LONGEST_CLASS, LONGEST_FUNCTION = 350, 250, 60
"""Lines."""

LARGE = {"hsm.member.member.Member": "the door of its room: a third of it are properties of one line each"}
"""Classes that are longer, with the reason."""


# --- who may import whom ----------------------------------------------------------------------------------------------


def imports_point_one_way(house: House) -> Iterator[str]:
    """A room imports only from the rooms of its row in MAY_IMPORT."""
    for one, other in house.arrows:
        where = room(one)
        top = where.partition(".")[0]
        allowed = MAY_IMPORT.get(where if top == "hsm" else top)
        if allowed is None:
            yield f"{one}: {where} is in no table"
        elif not any(_within(other, place) for place in allowed) and not _measures_the_token(one, other):
            yield f"{one} imports {other}: {where} may import from {', '.join(sorted(allowed))}"


def _within(module: str, place: str) -> bool:
    if place == "hsm":
        return room(module) == "hsm" and module.count(".") <= 1
    return module == place or room(module) == place or (place in TOP and module.startswith(f"{place}."))


def _measures_the_token(one: str, other: str) -> bool:
    """bench measures what the product runs, the wiring of the key side included; the token room through bench/sign."""
    if not one.startswith("bench."):
        return one.startswith("proxy.") and other.startswith("hsm.") and room(other) != "hsm.token"
    return other.startswith("hsm.") and (room(other) != "hsm.token" or room(one) == "bench.sign")


def measurements_stand_alone(house: House) -> Iterator[str]:
    """What is shipped of bench/ needs no rig, and no measurement needs another one's files."""
    for one, other in house.arrows:
        here, there = room(one).removeprefix("bench."), room(other).removeprefix("bench.")
        if here in BENCH_MAY_IMPORT and there in BENCH_MAY_IMPORT and there not in BENCH_MAY_IMPORT[here] | {here}:
            yield f"{one} imports {other}"


def only_the_token_room_knows_pkcs11(house: House) -> Iterator[str]:
    """python-pkcs11 and its traps stay in the member process."""
    for one, imported in house.imports.items():
        if room(one) != "hsm.token" and any(name.partition(".")[0] == "pkcs11" for name in imported):
            yield f"{one} imports pkcs11"


def settings_know_no_service(house: House) -> Iterator[str]:
    """Settings are types: words, what travels between processes, other settings, the names of protocols."""
    for one, imported in house.imports.items():
        if not one.endswith(".settings"):
            continue
        for other in imported:
            ours = other in house.modules
            type_alone = (
                other.endswith(".settings") or room(other) in ("hsm", "hsm.wire") or other == "addons.tls.protocol"
            )
            if (ours and not type_alone) or other.partition(".")[0] in SERVICES:
                yield f"{one} imports {other}"


def settings_say_when_they_change(house: House) -> Iterator[str]:
    """Each field of the signer's settings is marked "at start" or "at reload", and a reload goes by that alone."""
    tree = house.modules.get("hsm.signer.settings", ast.Module([], []))
    for node in (one for one in tree.body if isinstance(one, ast.ClassDef) and one.name == "SignerSettings"):
        for field in (one for one in node.body if isinstance(one, ast.AnnAssign)):
            marks = [one.id for one in ast.walk(field.annotation) if isinstance(one, ast.Name)]
            if not any(mark.endswith(("AtStart", "AtReload")) for mark in marks):
                yield f"SignerSettings.{ast.unparse(field.target)} does not say when a change of it takes effect"


def the_rest_is_absolute(house: House) -> Iterator[str]:
    """A path says where a module stands; a relative import hides it."""
    for one, imported in house.imports.items():
        yield from (f"{one} imports {other}" for other in imported if other.startswith("."))


def no_module_reaches_itself(house: House) -> Iterator[str]:
    """No circle of modules, late imports and those of types counted."""
    yield from (" <-> ".join(circle) for circle in circles([arrow for arrow in house.arrows if arrow[0] != arrow[1]]))


def no_room_reaches_itself(house: House) -> Iterator[str]:
    """No circle of rooms."""
    between = [(_place(one), _place(other)) for one, other in house.arrows]
    yield from (" <-> ".join(circle) for circle in circles([(a, b) for a, b in between if a != b]))


def _place(module: str) -> str:
    """The room of a module; one that stands in no room is a place of its own."""
    return module if room(module) in TOP else room(module)


# --- how large things are, and what they say --------------------------------------------------------------------------


def files_are_one_noun(house: House) -> Iterator[str]:
    """No file is longer than a reader keeps in mind."""
    for path, text in house.files.items():
        if (lines := text.count("\n")) > LONGEST_FILE:
            yield f"{path} has {lines} lines; at most {LONGEST_FILE}"


def classes_have_one_job(house: House) -> Iterator[str]:
    """No class, and no function, is longer without a reason beside it."""
    for one, tree in house.modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                lines = node.end_lineno - node.lineno + 1
                most = LONGEST_CLASS if isinstance(node, ast.ClassDef) else LONGEST_FUNCTION
                if lines > most and f"{one}.{node.name}" not in LARGE:
                    yield f"{one}.{node.name} has {lines} lines; at most {most}"


def maps_are_true(house: House) -> Iterator[str]:
    """A package's docstring has one line for each file and package in it, and none for what is not there."""
    for name, tree in house.packages.items():
        listed, there = named_in_map(ast.get_docstring(tree, clean=False) or ""), house.children(name)
        yield from (f"{name}: its map lacks {missing}" for missing in sorted(there - listed))
        yield from (f"{name}: its map names {gone}, which is not there" for gone in sorted(listed - there))


def docstrings_say_something(house: House) -> Iterator[str]:
    """Two words repeat the name; a reader wants what it does."""
    for one, tree in house.modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = ast.get_docstring(node)
                if text and len(text.split()) < 3:
                    yield f"{one}.{node.name}: {text!r}"


RULES: list[Rule] = [
    imports_point_one_way,
    measurements_stand_alone,
    only_the_token_room_knows_pkcs11,
    settings_know_no_service,
    settings_say_when_they_change,
    the_rest_is_absolute,
    no_module_reaches_itself,
    no_room_reaches_itself,
    files_are_one_noun,
    classes_have_one_job,
    maps_are_true,
    docstrings_say_something,
]
each_rule = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)

FAULTS: list[tuple[Rule, dict[str, str]]] = [
    (imports_point_one_way, {"hsm/errors.py": "from hsm.wire import frames", "hsm/wire/frames.py": ""}),
    (imports_point_one_way, {"hsm/wire/client.py": "def f():\n    import hsm.member.key", "hsm/member/key.py": ""}),
    (imports_point_one_way, {"hsm/token/main.py": "from hsm.secrets.pin import read", "hsm/secrets/pin.py": ""}),
    (imports_point_one_way, {"hsm/member/member.py": "from hsm.group import group", "hsm/group/group.py": ""}),
    (imports_point_one_way, {"hsm/member/key.py": "from hsm.certificates import ca", "hsm/certificates/ca.py": ""}),
    (imports_point_one_way, {"addons/modes.py": "from hsm.signer import settings", "hsm/signer/settings.py": ""}),
    (imports_point_one_way, {"addons/modes.py": "from hsm.member import settings", "hsm/member/settings.py": ""}),
    (imports_point_one_way, {"addons/modes.py": "from proxy.config import file", "proxy/config/file.py": ""}),
    (imports_point_one_way, {"proxy/main.py": "import bench.commands", "bench/commands.py": ""}),
    (imports_point_one_way, {"proxy/main.py": "import hsm.token.module", "hsm/token/module.py": ""}),
    (imports_point_one_way, {"bench/mint/mint.py": "import hsm.token.module", "hsm/token/module.py": ""}),
    (imports_point_one_way, {"hsm/attic/box.py": "import hsm.errors", "hsm/errors.py": ""}),
    (measurements_stand_alone, {"bench/sign/raw.py": "def f():\n    import bench.rig.nginx", "bench/rig/nginx.py": ""}),
    (measurements_stand_alone, {"bench/soak/faults.py": "import bench.forward.peers", "bench/forward/peers.py": ""}),
    (only_the_token_room_knows_pkcs11, {"hsm/member/life.py": "from pkcs11.util import ec"}),
    (settings_know_no_service, {"hsm/signer/settings.py": "from hsm.group import group", "hsm/group/group.py": ""}),
    (settings_know_no_service, {"hsm/signer/settings.py": "import asyncio"}),
    (settings_say_when_they_change, {"hsm/signer/settings.py": "class SignerSettings:\n    unavailable: str = ''"}),
    (the_rest_is_absolute, {"hsm/wire/client.py": "from . import frames"}),
    (no_module_reaches_itself, {"addons/a.py": "import addons.b", "addons/b.py": "def f():\n    import addons.a"}),
    (
        no_room_reaches_itself,
        {"addons/a/x.py": "import addons.b.x", "addons/b/x.py": "", "addons/b/y.py": "import addons.a.x"},
    ),
    (files_are_one_noun, {"hsm/errors.py": "\n" * (LONGEST_FILE + 1)}),
    (classes_have_one_job, {"hsm/errors.py": "class A:\n" + "    x = 1\n" * LONGEST_CLASS}),
    (classes_have_one_job, {"hsm/errors.py": "def a():\n" + "    x = 1\n" * LONGEST_FUNCTION}),
    (maps_are_true, {"hsm/wire/__init__.py": '"""Words.\n\n    gone   it is not there\n"""'}),
    (maps_are_true, {"hsm/wire/__init__.py": '"""Words."""', "hsm/wire/frames.py": ""}),
    (maps_are_true, {"hsm/__init__.py": '"""Words."""', "hsm/wire/__init__.py": "", "hsm/wire/frames.py": ""}),
    (docstrings_say_something, {"hsm/errors.py": 'def a():\n    """Count it."""'}),
]


@pytest.fixture(scope="module")
def house() -> House:
    """This checkout."""
    return House.standing()


@each_rule
def test_the_house_keeps_the_rule(house: House, rule: Rule) -> None:
    """What contributors are promised about the plan of the house is so."""
    faults = list(rule(house))
    assert not faults, "\n".join([rule.__doc__ or "", *faults])


@pytest.mark.parametrize(
    ("rule", "files"), FAULTS, ids=[f"{rule.__name__}-{number}" for number, (rule, _) in enumerate(FAULTS)]
)
def test_the_rule_sees_a_fault(rule: Rule, files: dict[str, str]) -> None:
    """A fault that somebody may well make is found by the rule that forbids it."""
    assert len(list(rule(House(files)))) >= 1


@each_rule
def test_every_rule_was_seen_to_fail(rule: Rule) -> None:
    """No rule stands here that nothing offends."""
    assert rule in [one for one, _ in FAULTS]


def test_late_imports_and_imports_of_types_count() -> None:
    """An import in a function, or for the type checker alone, is an arrow like any other."""
    text = (
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import addons.b\ndef f():\n    from addons import c"
    )
    made = House({"addons/a.py": text, "addons/b.py": "", "addons/c.py": ""})
    assert made.arrows == [("addons.a", "addons.b"), ("addons.a", "addons.c")]


# --- what a worker loads ----------------------------------------------------------------------------------------------


def loaded_by(statement: str) -> list[str]:
    """The modules of hsm's key side that a fresh interpreter has loaded after `statement`."""
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = done.stdout.split()
    assert "sys" in loaded
    return [name for name in loaded if name.split(".")[:2] in [["hsm", one] for one in KEY_SIDE] or name == "pkcs11"]


def test_a_worker_loads_nothing_of_the_key_side() -> None:
    """A worker that is taken over finds no code of ours that knows a PIN, a partition or a CA key."""
    assert loaded_by("import proxy.processes.worker") == []


def test_the_signer_is_seen_to_load_it() -> None:
    """The look at a fresh interpreter does find what it looks for."""
    assert {"hsm.signer.signer", "hsm.member.member"} <= set(loaded_by("import proxy.processes.signer"))


# --- the tests --------------------------------------------------------------------------------------------------------


def test_tests_mirror_the_house() -> None:
    """A room's tests are found where the room is: no folder of tests stands for a room that is not there."""
    for top in TOP:
        for folder in (ROOT / "tests" / top).rglob("*/"):
            if folder.name != "__pycache__":
                assert (ROOT / folder.relative_to(ROOT / "tests")).is_dir(), folder
    assert Path(__file__).parent == ROOT / "tests"


# --- the documents ----------------------------------------------------------------------------------------------------

DOCUMENTS = ["README.md", "SECURITY.md", "CONTRIBUTING.md", "bench/README.md"]


def misled(text: str) -> list[str]:
    """The paths and file names that stand between backticks in `text` and lead nowhere in this checkout."""
    quoted = re.findall(r"`([\w.*/-]+)`", text)
    paths = [one for one in quoted if one.partition("/")[0] in (*TOP, "tests", "deploy") and "/" in one]
    names = [one for one in quoted if re.fullmatch(r"\w+\.py", one)]
    gone = [one for one in paths if not list(ROOT.glob(one.rstrip("/")))]
    return gone + [one for one in names if not any(list((ROOT / top).rglob(one)) for top in (*TOP, "tests"))]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_name_what_is_there(name: str) -> None:
    """A reader who follows a file's name in a document finds the file."""
    assert misled((ROOT / name).read_text()) == []


def test_a_document_that_misleads_is_seen() -> None:
    """A name that leads nowhere is found, as a path and alone; what is no path of ours is let be."""
    assert misled("`hsm/gone.py` `gone.py` `hsm/errors.py` `errors.py` `/etc/gone` `hsm.gone`") == [
        "hsm/gone.py",
        "gone.py",
    ]


def unheld(text: str) -> list[str]:
    """What is wrong with the promises of SECURITY.md: those that name no test, and tests that are not there."""
    promised = text.partition("## What is promised")[2].partition("## What is not promised")[0]
    promises = [one for one in promised.split("\n\n") if one.lstrip().startswith("**")]
    wrong = [] if promises else ["nothing is promised"]
    for one in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", one.partition("Held by ")[2])
        if not named:
            wrong.append(f"{one.splitlines()[0]} names no test")
        for file, test in named:
            found = (ROOT / file).read_text() if (ROOT / file).is_file() else ""
            if not re.search(rf"^(async )?def {test}\(", found, re.MULTILINE):
                wrong.append(f"{file}::{test} is not there")
    return wrong


def test_each_promise_names_the_tests_that_hold_it() -> None:
    """Whoever reads a promise of SECURITY.md can run what proves it."""
    assert unheld((ROOT / "SECURITY.md").read_text()) == []


def test_a_promise_that_nothing_holds_is_seen() -> None:
    """A promise without a test, one whose test has another name, and no promise at all are found."""
    text = (
        "## What is promised\n\n**Much.** Really.\n\n**More.** Held by `tests/test_house.py::test_gone`,"
        " `tests/gone.py::test_a`.\n\n## What is not promised\n\n**This.**"
    )
    assert unheld(text) == [
        "**Much.** Really. names no test", "tests/test_house.py::test_gone is not there",
        "tests/gone.py::test_a is not there",
    ]  # fmt: skip
    assert unheld("") == ["nothing is promised"]
