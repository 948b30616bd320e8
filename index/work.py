"""A folder of unfinished work beside an index, from which an interrupted command goes on."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from embedding.encoder import Encoder, encode_batches
from index.source import SourceError

PART = 512  # images between two points where an interrupted command can go on


@contextmanager
def work_folder(out: Path) -> Iterator[Path]:
    """The folder beside `out` for one command at a time; it is removed at the end, and kept at an exception.

    Raises SourceError where `out` is not an index, or another command holds the folder.
    """
    work = out.with_name(out.name + ".partial")
    _refuse_foreign(out, work)
    work.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(work / "lock", timeout=0):
            if (work / "old").is_dir() and not out.exists():  # cut off between the two renames of a swap
                (work / "old").rename(out)
            yield work
    except Timeout:
        raise SourceError(f"Another build is writing {out}: wait for it, or choose another --out.") from None
    except BaseException:
        if [path.name for path in work.iterdir()] == ["lock"]:  # nothing was done that is worth keeping
            shutil.rmtree(work)
        raise
    shutil.rmtree(work)


def keep_or_clear(work: Path, request: str, say: Callable[[str], None]) -> None:
    """Keeps the parts of an interrupted command with the same `request`, removes those of any other."""
    record = work / "request.json"
    if record.is_file() and record.read_text(encoding="utf-8") == request:
        return
    leftovers = [path for path in work.iterdir() if path.name != "lock"]
    if leftovers:
        say("An interrupted build with other arguments is here: starting anew.")
    for path in leftovers:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    write_whole(record, lambda stream: stream.write(request.encode()))


def swap(work: Path, out: Path) -> None:
    """Moves the finished index to `out`; an older one there goes to the work folder, which is removed."""
    if out.exists():
        shutil.rmtree(work / "old", ignore_errors=True)
        out.rename(work / "old")
    (work / "index").rename(out)


def bring_along(folder: Path, into: Path, names: list[str]) -> None:
    """Puts files of the index in `folder` into the one that will replace it, without copying if possible."""
    for name in names:
        (into / name).parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(folder / name, into / name)
        except OSError:  # a file system without hard links
            shutil.copy2(folder / name, into / name)


def write_whole(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file that is there completely or not at all."""
    unfinished = file.with_name(file.name + ".unfinished")
    with unfinished.open("wb") as stream:
        write(stream)
    unfinished.replace(file)


def embed_parts(
    parts: Path,
    data: list[bytes],
    batch_size: int,
    load: Callable[[], Encoder],
    say: Callable[[str], None],
    title: str = "Embedding",
) -> NDArray[np.float32]:
    """The embeddings (n, d) of image files, part by part in the folder `parts`; finished ones are kept.

    `load` gives the encoder, and is called only if something is left to do.
    """
    parts.mkdir(exist_ok=True)
    step = -(-PART // batch_size) * batch_size  # whole batches, so that going on gives the same bytes
    starts = range(0, len(data), step)
    files = [parts / f"{start:09d}.npy" for start in starts]
    left = [pair for pair in zip(starts, files, strict=True) if not pair[1].is_file()]
    done = len(data) - sum(min(step, len(data) - start) for start, _ in left)
    if done:
        say(f"Going on: {done} of {len(data)} images were embedded before.")
    if left:
        encoder = load()
        spans = [range(start, min(start + step, len(data))) for start, _ in left]
        # one stream of batches over all parts: none begins with a wait for its first images
        images = (Image.open(BytesIO(data[item])) for span in spans for item in span)
        with tqdm(desc=title, total=len(data), initial=done, unit="image") as progress:
            batches = _counted(encode_batches(encoder, images, batch_size), progress)
            for span, (_, file) in zip(spans, left, strict=True):
                part = np.concatenate(list(islice(batches, -(-len(span) // batch_size))))
                write_whole(file, partial(np.save, arr=part, allow_pickle=False))
    return np.concatenate([np.load(file, allow_pickle=False) for file in files])


def _counted(batches: Iterator[NDArray[np.float32]], progress: tqdm) -> Iterator[NDArray[np.float32]]:
    for batch in batches:
        progress.update(len(batch))
        yield batch


def _refuse_foreign(out: Path, work: Path) -> None:
    """Only an index and an interrupted build are ever replaced. Raises SourceError at anything else."""
    ours = {out: ("manifest.json",), work: ("lock", "request.json")}
    for folder, marks in ours.items():
        if folder.is_dir() and (
            not any(folder.iterdir()) or any((folder / mark).is_file() for mark in marks)
        ):
            continue
        if folder.exists():
            raise SourceError(f"{folder} exists and is not an index: move it, or choose another --out.")
