"""Whatever fails while a key is in hand, what the process prints has no byte of it."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache

import pytest

# In a process of its own, because logging is configured once and for all. Every key that was made goes to stdout, for
# the test to look for; all that an operator's process says goes to stderr.
PROGRAM = """
import asyncio, datetime, faulthandler, gc, json, logging, sys
import structlog
from meshwright.controller import logs
from meshwright.keys.trust import Secret, Stores, ensure_trust, look_at_trust
from meshwright.mesh.desired import TrustIntent

logs.configure("DEBUG", as_json=sys.argv[1] == "json")
faulthandler.enable()
NOW = datetime.datetime(2026, 3, 1, tzinfo=datetime.UTC)
INTENT = TrustIntent("demo", "id", "cluster.local", "primary", "root", "istio-system", "cacerts")


class Failing:
    \"\"\"Keeps Secrets until write number `left`; then something that nobody thought of goes wrong.\"\"\"

    def __init__(self, left):
        self.left, self.secrets = left, {}

    async def read(self, namespace, name):
        return self.secrets.get(name)

    async def create(self, secret):
        print(json.dumps([content.decode() for content in secret.files.values()]))
        self.left -= 1
        if self.left < 0:
            raise RuntimeError(f"{secret} {secret!r} {[secret]}") from ValueError(f"{secret}")
        self.secrets[secret.name] = secret

    update = create

    async def ensure_namespace(self, name, *, labels):
        pass


async def ensure(left, days=0):
    store = Failing(left)
    await ensure_trust(INTENT, Stores(store, store, "system"), now=NOW)
    now = NOW + datetime.timedelta(days=days)
    await ensure_trust(INTENT, Stores(store, store, "system"), now=now)


async def main():
    asyncio.get_running_loop().set_debug(True)
    for left, days in ((0, 0), (1, 0), (2, 200)):
        for log in (structlog.get_logger(), logging.getLogger("somebody")):
            try:
                await ensure(left, days)
            except RuntimeError as error:
                log.exception("failed")
                log.error("failed %r", error, exc_info=error, stack_info=True)
                faulthandler.dump_traceback()
    task = asyncio.create_task(ensure(0))
    await asyncio.wait([task])
    del task
    gc.collect()  # "Task exception was never retrieved"
    await ensure(1)  # and one that ends the process


asyncio.run(main())
"""


@cache
def spoken(form: str) -> tuple[list[str], str]:
    """The files of every Secret that was written, and what the process said until it crashed."""
    done = subprocess.run([sys.executable, "-c", PROGRAM, form], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    return [content for line in done.stdout.splitlines() for content in json.loads(line)], done.stderr


@pytest.mark.parametrize("form", ["json", "text"])
def test_no_line_of_a_key_is_printed(form: str) -> None:
    files, said = spoken(form)
    keys = [content for content in files if "PRIVATE KEY" in content]
    assert len(keys) > 10
    for key in keys:
        assert not [line for line in key.splitlines() if line and line in said]


@pytest.mark.parametrize("form", ["json", "text"])
def test_every_way_to_print_was_taken(form: str) -> None:
    _, said = spoken(form)
    assert said.count("Secret istio-system/cacerts") > 10
    for words in ("Task exception was never retrieved", "most recent call first", "Stack (most recent call last)"):
        assert words in said
    assert said.rstrip().endswith("resource_version='')]")  # the interpreter's own last words
