"""A Space's cold start: from the start of the process to the first page and the first answer, with a Hub.

python -m benchmarks.hub_start INDEX... [--rounds 3] [--port 8000]

Each INDEX is a folder that `python -m index build` made. A Hub-compatible server on this machine (the tests'
own) holds it, so the network costs next to nothing: what is measured is the program. Every round starts the
app from the folder, from the Hub with nothing cached, from the cache while the Hub answers, and from the
cache with the Hub gone. The first answer is that of /query_item, asked as soon as the page is there.
"""

import argparse
import socket
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx

from benchmarks.server import PATIENCE, serving
from benchmarks.timing import print_table
from index.store import MANIFEST, load_manifest
from tests.hub_server import HubServer

ID = "bench/index"
CASES = ("a folder", "the Hub, nothing cached", "the Hub, cached", "the cache, the Hub is gone")


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    rows = [row for index in options.indexes for row in rows_of(index, options.rounds, options.port)]
    print_table(["items", "index from", "first page s", "against a folder", "first answer s"], rows)


def rows_of(index: Path, rounds: int, port: int) -> list[list[str]]:
    """One row for each case, medians over the rounds."""
    found: dict[str, list[tuple[float, float]]] = {case: [] for case in CASES}
    for _ in range(rounds):
        for case, times in starts(index, port).items():
            found[case].append(times)
    rows = []
    for case, times in found.items():
        page, answer = (median(values) for values in zip(*times, strict=True))
        pairs = zip(times, found[CASES[0]], strict=True)
        against = median(own[0] / folder[0] for own, folder in pairs)
        rows.append(
            [f"{load_manifest(index).count:,}", case, f"{page:.1f}", f"{against:.2f}x", f"{answer:.1f}"]
        )
    return rows


def starts(index: Path, port: int) -> dict[str, tuple[float, float]]:
    """Seconds to the first page and the first answer in each case, with a cache that is empty at first."""
    names = (MANIFEST, *load_manifest(index).files)
    with tempfile.TemporaryDirectory() as folder:
        hub = HubServer(Path(folder) / "hub", _free_port())
        hub.start()
        hub.put(ID, {name: (index / name).read_bytes() for name in names})
        settings = {"HF_ENDPOINT": hub.url, "HF_HOME": f"{folder}/home", "HF_HUB_DISABLE_XET": "1"}
        times = [_start(index, port, {}), _start(ID, port, settings), _start(ID, port, settings)]
        hub.stop()
        times.append(_start(ID, port, settings))
    return dict(zip(CASES, times, strict=True))


def _start(index: Path | str, port: int, settings: dict[str, str]) -> tuple[float, float]:
    with serving(index, port, **settings) as server:
        api = f"{server.address}/gradio_api/call/query_item"
        event = (
            httpx.post(api, json={"data": [0, 10]}, timeout=PATIENCE).raise_for_status().json()["event_id"]
        )
        told = httpx.get(f"{api}/{event}", timeout=PATIENCE).text
        if "event: complete" not in told:
            raise SystemExit(f"The app did not answer: {told}")
        return server.seconds_to_page, time.perf_counter() - server.started


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("indexes", type=Path, nargs="+", metavar="INDEX")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--port", type=int, default=8000)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
