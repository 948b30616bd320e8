"""The real app in a process of its own, as a visitor meets it."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.conftest import ROOT


@contextmanager
def running_app(*arguments: object, log: Path, **environment: str) -> Iterator[str]:
    """Starts app.py and yields its address once the page is served; ends it afterwards."""
    port = free_port()
    command = [sys.executable, "app.py", "--port", str(port), *map(str, arguments)]
    clean = {key: value for key, value in os.environ.items() if key not in ("INDEX", "INDEX_REVISION")}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=clean | environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            address = f"http://127.0.0.1:{port}/"
            wait_for(address, process, log)
            yield address
        finally:
            process.terminate()
            process.wait(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(address: str, process: subprocess.Popen, log: Path) -> None:
    """Waits until the process serves the page at `address`; its `log` goes into the error if it does not."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"the server ended with {process.returncode}: {log.read_text()}")
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise AssertionError(f"the server did not answer: {log.read_text()}")
