"""From the start of the process to the first page and to the first live answer, and the memory it takes.

python -m benchmarks.startup FASHION_MNIST INDEX... [--rounds 5] [--port 8000]

FASHION_MNIST is a folder with the Parquet files of zalando-datasets/fashion_mnist; each INDEX is a folder
that `python -m index build` made. Every round starts each app once, and `import gradio` alone as the
yardstick: no Gradio app can serve a page sooner. The first page is the first 200 to GET /; the first live
answer is that of /query_image to a photo that is uploaded as soon as the page is there, while the model is
still loading. Memory is the peak of the process (VmHWM, Linux only) up to that answer.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.fashion import photo_file, read_files
from benchmarks.server import ask_live, peak_megabytes, serving
from benchmarks.timing import print_table
from index.store import load_manifest

YARDSTICK = """
import gradio
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@dataclass(frozen=True)
class Start:
    """One start: seconds to page and to live answer (none for the yardstick), peak memory in MB."""

    page: float
    live: float
    megabytes: float


def main(arguments: list[str] | None = None) -> None:
    options = _options(arguments)
    upload = photo_file(read_files(options.fashion_mnist, 1)[0])
    starts: dict[Path | None, list[Start]] = {None: [], **{index: [] for index in options.indexes}}
    for _ in range(options.rounds):
        for index, found in starts.items():
            found.append(start_app(index, upload, options.port) if index else import_gradio())
    rows = [row("import gradio alone", starts[None], starts[None])]
    for index in options.indexes:
        manifest = load_manifest(index)
        name = f"app, {manifest.count:,} items x {manifest.dimension}"
        rows.append(row(name, starts[index], starts[None]))
    header = ["process", "first page s", "against import", "first live answer s", "peak memory MB"]
    print_table(header, rows)


def row(name: str, starts: list[Start], yardstick: list[Start]) -> list[str]:
    page, live = (median(getattr(start, what) for start in starts) for what in ("page", "live"))
    against = median(own.page / alone.page for own, alone in zip(starts, yardstick, strict=True))
    shown = f"{live:.1f}" if live == live else ""
    megabytes = median(start.megabytes for start in starts)
    return [name, f"{page:.1f}", f"{against:.2f}x", shown, f"{megabytes:.0f}"]


def start_app(index: Path, upload: bytes, port: int) -> Start:
    with serving(index, port) as server:
        ask_live(server.address, upload)
        live = time.perf_counter() - server.started
        return Start(server.seconds_to_page, live, peak_megabytes(server.pid))


def import_gradio() -> Start:
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", YARDSTICK], capture_output=True, text=True, check=True)
    return Start(time.perf_counter() - start, float("nan"), int(done.stdout) / 1024)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("fashion_mnist", type=Path)
    parser.add_argument("indexes", type=Path, nargs="+", metavar="INDEX")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--port", type=int, default=8000)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
