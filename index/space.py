"""The Space: this repository's tracked files on the Hub, told which index to open.

python -m index.space you/demo you/your-index [--revision v1] [--private]
"""

import argparse
import subprocess
import sys
import warnings
from pathlib import Path

from index.hub import HubError, index_revision
from index.manifest import FormatError
from index.publish import Publication, Published, Target, publish

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None) -> int:
    """Publishes the Space; what goes wrong is one line on stderr and the exit status 1."""
    parser = argparse.ArgumentParser(prog="python -m index.space", description="Publish the demo as a Space.")
    parser.add_argument("repo", help="the Space, such as you/demo")
    parser.add_argument("index", help="the published index that it opens, such as you/your-index")
    parser.add_argument("--revision", help="of the index: a tag or a commit (default: the newest commit)")
    parser.add_argument("--private", action="store_true", help="a new Space is for its owner only")
    options = parser.parse_args(arguments)
    try:
        done = publish_space(options.repo, options.index, options.revision, options.private)
    except FormatError as error:
        print(error, file=sys.stderr)
        return 1
    print(
        f"Published: {done.url}" if done.changed else f"Nothing has changed since the last time: {done.url}"
    )
    return 0


def publish_space(repo: str, index: str, revision: str | None = None, private: bool = False) -> Published:
    """Puts the tracked files of this repository, as they are on disk, on the Hub. Raises HubError."""
    pinned = index_revision(index, revision)
    target = Target(repo, "space", mark="index/manifest.py", owned=r"(?!\.gitattributes$).*")
    files = {name: ROOT / name for name in tracked_files()}
    variables = {"INDEX": index, "INDEX_REVISION": pinned}
    publication = Publication(target, files, f"Publish {_version()}", private, variables=variables)
    with warnings.catch_warnings():  # the bundled sample is Parquet, and meant to be there
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        return publish(publication)


def tracked_files() -> list[str]:
    """The files of this repository that git tracks. Raises HubError if it is no checkout, or misses some."""
    names = [name for name in _git("ls-files", "-z").split("\0") if name]
    if missing := [name for name in names if not (ROOT / name).is_file()]:
        raise HubError(f"{missing[0]} is tracked by git but is not there: restore or remove it first.")
    return names


def _version() -> str:
    return _git("describe", "--always", "--dirty").strip()


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise HubError(f"{ROOT} is not a git checkout: a Space is published from one.") from None
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
