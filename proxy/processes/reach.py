"""What of the file system a worker needs, and what it must never have, from the configuration. Nothing is changed here.

It needs Python and our code, libraries, what names and certificates are resolved with, and what hsmitm.toml names for
it. It must not have what leads to a key: PINs, token stores, the state and run directories. Where both stand in one
directory, its parts are given one by one.
"""

from __future__ import annotations

import os
import pwd
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

import addons
import hsm
import proxy
from proxy.config.file import Config

_SYSTEM = (
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/bin",
    "/sbin",
    "/etc",
    "/nix/store",
    "/proc",
    "/sys/devices/system/cpu",
)
SO_PIN = "so-pin"
"""Where `init` of before left it, beside the configuration."""
_PATHS = ("SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH", "LD_PRELOAD", "PYTHONPATH", "TZDIR")
_SHARED = frozenset(map(Path, ("/", "/tmp", "/var", "/var/tmp", "/home", "/root", "/opt", "/srv", "/etc", "/mnt")))  # noqa: S108


class Reach(Struct, frozen=True):
    """Paths: `reads` with all beneath, `lists` the names in a directory."""

    reads: list[str]
    lists: list[str]


def of_worker(config: Config, environment: Mapping[str, str]) -> Reach:
    """What a worker of this configuration may read; `environment` is the worker's."""
    hidden = {Path(os.path.realpath(one)) for one in secrets(config)}
    given = [*_python(), *_of_environment(environment)]
    scripts = [config.base / one for one in config.file.mitmproxy.scripts]
    for path in [*named(config), *scripts]:
        given += [path, Path(os.path.realpath(path))]
    reads: list[Path] = []
    lists: list[Path] = []
    for path in given:
        _around(path, hidden, reads, lists)
    for script in scripts:
        _beside(Path(os.path.realpath(script)).parent, hidden, reads, lists)
    return Reach(sorted(set(map(str, reads))), sorted(set(map(str, lists))))


def of_page(config: Config, environment: Mapping[str, str]) -> Reach:
    """What the status page's process may read."""
    hidden = {Path(os.path.realpath(one)) for one in secrets(config)}
    reads: list[Path] = []
    lists: list[Path] = []
    for path in (*_python(), *_of_environment(environment), config.path, Path(os.path.realpath(config.path))):
        _around(path, hidden, reads, lists)
    return Reach(sorted(set(map(str, reads))), sorted(set(map(str, lists))))


def named(config: Config) -> list[Path]:
    """The files that hsmitm.toml names for workers, and itself."""
    found = [config.path] + ([config.upstream_ca] if config.upstream_ca else [])
    found += [config.base / one for one in (config.file.pages.template,) if one is not None]
    for own in config.file.upstream.own(config.base).values():
        found += [own.certificate, own.key]
    for listener in config.file.inbound:
        for site in listener.sites:
            more = [*site.certificates, site.upstream_ca, site.upstream_certificate, site.client_ca]
            found += [config.base / one for one in more if one is not None]
            found += [config.base / one for one in site.staples if one != "fetch"]
    return found


def secrets(config: Config) -> list[Path]:
    """What leads to a key: no worker reads it."""
    base = config.base
    found = [config.run.path, base / config.file.run.state]
    if (base / SO_PIN).exists():
        found.append(base / SO_PIN)
    for member in config.file.hsm.members:
        if member.pin.file is not None:
            found.append(base / member.pin.file)
        for value in member.environment.values():
            path = base / str(value)
            with suppress(OSError, ValueError):
                if path.is_file():
                    found += [path, *_token_stores(path)]
    if credentials := os.environ.get("CREDENTIALS_DIRECTORY"):
        found.append(Path(credentials))
    return found


def _token_stores(configuration: Path) -> Iterator[Path]:
    """Where a SoftHSM configuration puts its tokens."""
    with suppress(OSError):
        text = configuration.read_text("utf-8", "replace")
        yield from map(Path, re.findall(r"(?m)^\s*directories\.tokendir\s*=\s*(\S.*?)\s*$", text))


def _python() -> Iterator[Path]:
    """The interpreter, its libraries, our code, and what name resolution and certificates need."""
    yield from map(Path, _SYSTEM)
    code = [Path(str(one.__path__[0])) for one in (addons, hsm, proxy)]
    python = (sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix, sys.executable)
    for path in [*map(Path, python), *code]:
        yield path
        yield Path(os.path.realpath(path))
    top = code[0].parent
    for entry in map(Path, sys.path):
        if entry.is_absolute() and entry not in (top, Path.cwd()) and entry not in _SHARED:
            yield entry
    for one in ("/etc/resolv.conf", "/etc/localtime"):
        target = Path(os.path.realpath(one))
        if not target.is_relative_to("/etc"):
            yield target.parent  # it is replaced, not written, when the network changes


def _of_environment(environment: Mapping[str, str]) -> Iterator[Path]:
    """What libraries read because a variable says so."""
    for name in _PATHS:
        for one in environment.get(name, "").split(":"):
            if one.startswith("/") and Path(one) not in _SHARED:
                yield Path(one)


def _around(path: Path, hidden: set[Path], reads: list[Path], lists: list[Path]) -> None:
    """Give `path` with all beneath, but for what is hidden."""
    real = Path(os.path.realpath(path))
    if real in hidden or hidden & set(real.parents):
        return
    if not any(real in one.parents for one in hidden):
        reads.append(path)
        return
    lists.append(path)
    with suppress(OSError):
        for child in path.iterdir():
            if not child.is_symlink():
                _around(child, hidden, reads, lists)


def _beside(directory: Path, hidden: set[Path], reads: list[Path], lists: list[Path]) -> None:
    """What a script imports from its own directory: all of one that is for scripts, else Python's files."""
    homes = {Path(one.pw_dir) for one in pwd.getpwall()} | _SHARED
    if directory not in homes and not any(directory in one.parents for one in hidden):
        _around(directory, hidden, reads, lists)
        return
    lists.append(directory)
    with suppress(OSError):
        for child in directory.iterdir():
            if not child.is_symlink() and (child.suffix == ".py" or (child / "__init__.py").is_file()):
                _around(child, hidden, reads, lists)


def through(paths: Iterable[str]) -> set[str]:
    """The same with what symbolic links among them lead to."""
    return {*paths, *(os.path.realpath(one) for one in paths)}
