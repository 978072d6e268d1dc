"""The demo's proof that a worker is kept from the keys: a program in its cage tries to read what leads to them."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from hsm.wire.admin import StatusReport
from hsm.wire.run_directory import ADMIN_TOKEN
from proxy.config.file import Config
from proxy.processes import environment, quarters

_TRY = """
import json, sys
got = []
for path in sys.argv[1:]:
    try:
        with open(path, "rb") as file:
            file.read(1)
    except (PermissionError, FileNotFoundError):
        continue
    except OSError:
        if not path.startswith("/proc/"):
            continue
    got.append(path)
print(json.dumps(got))
"""


async def kept(config: Config, report: StatusReport) -> tuple[bool, str]:
    """Whether it is kept from all of them, in a sentence; where the machine has nothing that does it, that is said."""
    given = environment.of_worker(os.environ, config.file.run.worker_environment, config.secret_variables)
    found = await asyncio.to_thread(quarters.choose, config, given, with_signer=True)
    process = await asyncio.create_subprocess_exec(
        *found.cage.command([sys.executable, "-I", "-c", _TRY, *map(str, _targets(config, report))]),
        stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL, env=given,
    )  # fmt: skip
    output, _ = await process.communicate()
    if not found.strong:
        return True, f"workers run as {found.words}: nothing on this machine keeps them from the partition's PIN"
    got = json.loads(output or "[]") if process.returncode == 0 else ["nothing could be tried"]
    text = "a worker that is taken over reads neither PIN, partition, nor the memory of signer and members"
    return not got, f"{text} (workers: {found.words})" + (f": but it read {', '.join(got)}" if got else "")


def _targets(config: Config, report: StatusReport) -> list[Path]:
    tokens = [one for one in (config.base / "softhsm").rglob("*") if one.is_file()]
    members = [one.pid for one in report.members]
    signers = [int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) for pid in members]
    memory = [Path(f"/proc/{pid}/mem") for pid in {*members, *signers}]
    return [config.base / "pin", config.run.path / ADMIN_TOKEN, *tokens, *memory]
