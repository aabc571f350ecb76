"""Child processes that end with this one, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .console import TestbedError

# The kernel sends the signal when the *thread* that made the child ends. A test may start a server in a
# thread of a pool or of an event loop; this thread lives as long as the interpreter.
_spawner = ThreadPoolExecutor(max_workers=1, thread_name_prefix="testbed-spawner")


class Child:
    """One program with its output in a file."""

    def __init__(self, argv: tuple[str, ...], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.argv = argv
        self.log = log
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = _spawner.submit(self._spawn).result()

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", *self.argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._env,
                start_new_session=True,  # Ctrl-C at the terminal is for the test run, which stops it in order
            )

    def check(self) -> None:
        """Raises what it said last if it ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            said = "\n    ".join(self.log.read_text(errors="replace").splitlines()[-4:])
            raise ChildEndedError(f"{Path(self.argv[0]).name} ended with code {self._process.returncode}:\n    {said}")

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """At once and for certain; it may be started again."""
        if self._process is not None:
            self._signal(signal.SIGKILL)
            self._process.wait(30)
            self._process = None

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)


class ChildEndedError(TestbedError):
    """A program that should be running is not."""
