"""A folder of unfinished work beside an index, from which an interrupted command goes on."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from tqdm import tqdm

from embedding.parts import Embed, Part
from index.card import write_card
from index.manifest import Manifest, manifest_to_json
from index.source import SourceError
from index.store import MANIFEST, file_sha256

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


def save_with(
    work: Path, folder: Path, manifest: Manifest, name: str, write: Callable[[Path], object]
) -> Manifest:
    """Writes `work`/index: the files of the index in `folder` as they are, `name` anew, and what names it.

    `write` gets the folder to write that file into. Returns the manifest with its checksum.
    """
    new = work / "index"
    shutil.rmtree(new, ignore_errors=True)
    bring_along(folder, new, [file for file in manifest.files if file != name])
    write(new)
    manifest = replace(manifest, files=manifest.files | {name: file_sha256(new / name)})
    (new / MANIFEST).write_text(manifest_to_json(manifest), encoding="utf-8")
    write_card(manifest, new)
    return manifest


def write_whole(file: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file that is there completely or not at all."""
    unfinished = file.with_name(file.name + ".unfinished")
    with unfinished.open("wb") as stream:
        write(stream)
    unfinished.replace(file)


def embed_parts(
    folder: Path,
    data: list[bytes],
    batch_size: int,
    embed: Embed,
    say: Callable[[str], None],
    title: str = "Embedding",
) -> NDArray[np.float32]:
    """The embeddings (n, d) of image files, part by part in `folder` as they come; finished ones are kept.

    `embed` is called only if something is left to do.
    """
    folder.mkdir(exist_ok=True)
    step = -(-PART // batch_size) * batch_size  # whole batches, so that going on gives the same bytes
    files = {start: folder / f"{start:09d}.npy" for start in range(0, len(data), step)}
    left = [Part(start, data[start : start + step]) for start, file in files.items() if not file.is_file()]
    done = len(data) - sum(len(part.files) for part in left)
    if done:
        say(f"Going on: {done} of {len(data)} images were embedded before.")
    if left:
        with tqdm(desc=title, total=len(data), initial=done, unit="image") as progress:
            for part in embed(left, progress.update):
                write_whole(files[part.start], partial(np.save, arr=part.rows, allow_pickle=False))
    return np.concatenate([np.load(file, allow_pickle=False) for file in files.values()])


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
