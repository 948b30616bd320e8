"""The command line: python -m index build | check."""

import argparse
import sys
from pathlib import Path

from embedding.encoder import ModelError
from index.manifest import FormatError, Manifest
from index.source import PRESETS, SourceError, SourceRequest

DEFAULT_MODEL = "facebook/dinov2-base"


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; what goes wrong is one line on stderr and the exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (SourceError, ModelError, FormatError) as error:
        return _fail(str(error))
    except OSError as error:  # no space, no permission: the finished parts stay where they are
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"Cannot read or write{where}: {error.strerror or error}. Mend that and run it again.")
    except KeyboardInterrupt:
        return _fail("Interrupted. The same command goes on from here.", 130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m index", description="Build and check image indexes.")
    commands = parser.add_subparsers(required=True, metavar="build | check")
    build = commands.add_parser("build", help="embed, lay out and measure a set of images")
    build.set_defaults(run=_build)
    build.add_argument(
        "source", help=f"a preset ({', '.join(PRESETS)}), a Hub dataset id, or a folder of Parquet or images"
    )
    build.add_argument("--out", type=Path, required=True, help="the folder that the index appears in")
    build.add_argument("--title", help="what the index is called (default: the source's name)")
    build.add_argument("--split", default="train")
    build.add_argument("--image-column", help="default: the first column of images")
    build.add_argument("--label-column", help="default: the first column of classes")
    build.add_argument(
        "--limit", type=_whole(0), default=5000, help="how many images to draw, 0 = all (default 5000)"
    )
    build.add_argument("--seed", type=_whole(0), default=42)
    build.add_argument(
        "--model", default=DEFAULT_MODEL, help=f"a Hub id or a folder (default {DEFAULT_MODEL})"
    )
    build.add_argument("--revision", help="the model's revision (default: the newest)")
    build.add_argument("--batch-size", type=_whole(1), default=64)
    build.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    build.add_argument("--n-neighbors", type=_whole(2), default=15, help="UMAP's n_neighbors")
    build.add_argument("--min-dist", type=_min_dist, default=0.1, help="UMAP's min_dist, 0 to 1")
    check = commands.add_parser("check", help="verify that an index keeps its promises")
    check.set_defaults(run=_check)
    check.add_argument("folder", type=Path)
    check.add_argument("--model", help="the model to embed again with, if it is not where the manifest says")
    return parser


def _build(options: argparse.Namespace) -> int:
    from index.build import BuildRequest, build_index  # slow import: scikit-learn

    source = SourceRequest(
        options.source, options.split, options.image_column, options.label_column, options.limit, options.seed
    )
    request = BuildRequest(
        source=source,
        model=options.model,
        revision=options.revision,
        title=options.title,
        batch_size=options.batch_size,
        device=options.device,
        n_neighbors=options.n_neighbors,
        min_dist=options.min_dist,
    )
    manifest = build_index(request, options.out)
    _print_metrics(manifest)
    print(f"{options.out} is ready: python app.py --index {options.out}")
    return 0


def _check(options: argparse.Namespace) -> int:
    from index.check import check_index  # slow import: scikit-learn

    for line in check_index(options.folder, options.model):
        print(line, flush=True)
    print(f"{options.folder} keeps its promises.")
    return 0


def _print_metrics(manifest: Manifest) -> None:
    from index.quality import describe_metrics  # slow import: scikit-learn

    print(f"\n{manifest.title}: {manifest.count:,} items, {manifest.dimension} dimensions")
    for name, value, meaning in describe_metrics(manifest):
        print(f"  {name:26} {value:>8}  {meaning}")
    if not manifest.source.labeled:
        print("  The source has no classes: metrics that need labels are left out.")


def _whole(least: int):
    def parse(text: str) -> int:
        if not text.strip().lstrip("-").isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return int(text)

    return parse


def _min_dist(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")
    return value


def _fail(message: str, status: int = 1) -> int:
    print(message, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
