"""A Hub for tests, and programs that use it with an environment of their own."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.hub_server import HubServer

FREE_PORT = 7999  # nothing listens there


@dataclass(frozen=True)
class Client:
    """How programs reach the Hub: as whom, and with which cache."""

    hub: HubServer
    home: Path

    def environment(self, **changes: str | None) -> dict[str, str]:
        """This process's environment with the Hub's settings; None takes a variable away."""
        settings = {
            "HF_ENDPOINT": self.hub.url,
            "HF_TOKEN": "hf_write",
            "HF_HOME": str(self.home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_DATASETS_OFFLINE": "0",
            "HF_HUB_ETAG_TIMEOUT": "2",
        }
        merged = {**os.environ, **settings, **changes}
        return {name: value for name, value in merged.items() if value is not None}

    def start(self, *arguments: str, cwd: Path = ROOT, **changes: str | None) -> subprocess.Popen[str]:
        """Starts python with `arguments`, in the project's folder unless another is named."""
        return subprocess.Popen(
            [sys.executable, *arguments],
            cwd=cwd,
            env=self.environment(**changes),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(
        self, *arguments: str, cwd: Path = ROOT, **changes: str | None
    ) -> subprocess.CompletedProcess[str]:
        """Runs python with `arguments`, in the project's folder unless another is named."""
        process = self.start(*arguments, cwd=cwd, **changes)
        out, err = process.communicate(timeout=120)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def start_server(folder: Path) -> HubServer:
    """A running Hub on a port that was free; it keeps the port while it is stopped and started again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = HubServer(folder, port)
    server.start()
    return server


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    """An empty Hub."""
    server = start_server(tmp_path / "hub")
    yield server
    server.forget()
    server.stop()


@pytest.fixture
def client(hub: HubServer, tmp_path: Path) -> Client:
    """A machine with an empty cache and a token that may write."""
    return Client(hub, tmp_path / "home")
