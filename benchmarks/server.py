"""The app in a process of its own, timed from its start."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from embedding.encoder import ROOT

PATIENCE = 120  # seconds
POLL = 0.02


@dataclass(frozen=True)
class Server:
    """A running app: its address, its process id, when it was started and the seconds to its first page."""

    address: str
    pid: int
    started: float
    seconds_to_page: float


@contextmanager
def serving(index: Path | str, port: int, **environment: str) -> Iterator[Server]:
    """Starts app.py with an index, yields once its page is served, and ends it afterwards.

    `index` is a folder, or a Hub id; `environment` is added to this process's own.
    """
    started = time.perf_counter()
    place = str(index.resolve()) if isinstance(index, Path) else index
    command = [sys.executable, "app.py", "--index", place, "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, **quiet)
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_for_page(address, process)
        yield Server(address, process.pid, started, time.perf_counter() - started)
    finally:
        process.terminate()
        process.wait(PATIENCE)


def peak_megabytes(pid: int) -> float:
    """The most memory that a running process has held so far (VmHWM; Linux only)."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def ask_live(address: str, upload: bytes) -> dict:
    """The answer of /query_image to an uploaded file, over plain HTTP."""
    api = f"{address}/gradio_api"
    sent = httpx.post(f"{api}/upload", files={"files": ("photo.jpg", upload)}, timeout=PATIENCE)
    file = {"path": sent.raise_for_status().json()[0], "meta": {"_type": "gradio.FileData"}}
    asked = httpx.post(f"{api}/call/query_image", json={"data": [file, 10]}, timeout=PATIENCE)
    event = asked.raise_for_status().json()["event_id"]
    stream = httpx.get(f"{api}/call/query_image/{event}", timeout=PATIENCE).text
    last = stream.strip().split("\n\n")[-1]
    if not last.startswith("event: complete"):
        raise SystemExit(f"The app did not answer a live query: {last}")
    return json.loads(last.split("data: ", 1)[1])[0]


def _wait_for_page(address: str, process: subprocess.Popen) -> None:
    deadline = time.perf_counter() + PATIENCE
    while time.perf_counter() < deadline and process.poll() is None:
        try:
            httpx.get(address, timeout=PATIENCE).raise_for_status()
            return
        except httpx.TransportError:
            time.sleep(POLL)
    raise SystemExit(f"The app served no page at {address}: is the index sound and the port free?")
