"""The command line: python -m index COMMAND; `python -m index --help` lists them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from embedding.encoder import ModelError
from embedding.engines import Workers
from embedding.models import MODELS
from embedding.parts import EngineError
from index.compare import compare, comparison_tables, write_comparison
from index.figures import describe_evaluation, describe_metrics, worst_confusions
from index.hygiene import inspect, write_tables
from index.manifest import FormatError, Manifest, for_others, manifest_to_json
from index.projection import LayoutRow, describe_layouts, layout_title
from index.publish import Publication, index_target, publish, sign_in
from index.search import SearchError
from index.searching import advice
from index.source import PRESETS, SourceError, SourceRequest
from index.store import MANIFEST, load_index, load_manifest, read_neighbors

DEFAULT_MODEL = "facebook/dinov2-base"
SHOWN = 10  # rows of each kind that `hygiene` prints


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; what goes wrong is one line on stderr and the exit status 1."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (SourceError, ModelError, EngineError, FormatError, SearchError) as error:
        return _fail(str(error))
    except OSError as error:  # no space, no permission: the finished parts stay where they are
        where = f" ({error.filename})" if error.filename else ""
        return _fail(f"Cannot read or write{where}: {error.strerror or error}. Mend that and run it again.")
    except KeyboardInterrupt:
        return _fail("Interrupted. The same command goes on from here.", 130)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m index", description="Build, check and publish image indexes."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    approximate = commands.add_parser("approximate", help="make a large index faster to search, with FAISS")
    approximate.set_defaults(run=_approximate)
    approximate.add_argument("folder", type=Path)
    _add_build(commands.add_parser("build", help="embed, lay out and measure a set of images"))
    _add_compare(commands.add_parser("compare", help="hold indexes of the same items against each other"))
    _add_evaluate(commands.add_parser("evaluate", help="judge held-out images against an index"))
    _add_hygiene(commands.add_parser("hygiene", help="list what deserves a second look"))
    _add_project(commands.add_parser("project", help="add a layout to an index"))
    check = commands.add_parser("check", help="verify that an index keeps its promises")
    check.set_defaults(run=_check)
    _add_checked(check)
    publish = commands.add_parser("publish", help="check an index, then put it on the Hub in one commit")
    publish.set_defaults(run=_publish)
    _add_checked(publish)
    publish.add_argument("repo", help="where it goes on the Hub, such as you/your-index")
    _add_publishing(publish)
    return parser


def _add_build(build: argparse.ArgumentParser) -> None:
    build.set_defaults(run=_build)
    build.add_argument(
        "source", help=f"a preset ({', '.join(PRESETS)}), a Hub dataset id, or a folder of Parquet or images"
    )
    build.add_argument("--out", type=Path, required=True, help="the folder that the index appears in")
    build.add_argument("--title", help="what the index is called (default: the source's name)")
    build.add_argument("--source-revision", help="a commit or tag of a Hub dataset (default: the newest)")
    build.add_argument("--split", default="train")
    build.add_argument("--image-column", help="default: the first column of images")
    build.add_argument("--label-column", help="default: the first column of classes")
    build.add_argument(
        "--limit", type=_whole(0), default=5000, help="how many images to draw, 0 = all (default 5000)"
    )
    build.add_argument("--seed", type=_whole(0), default=42)
    build.add_argument(
        "--model",
        default=DEFAULT_MODEL,
        help=f"a Hub id, a folder, or one of {', '.join(MODELS)} (default {DEFAULT_MODEL})",
    )
    build.add_argument(
        "--pooling",
        choices=("cls", "mean", "both"),
        default="cls",
        help="what becomes the embedding: the CLS token, the mean of the patches, or both",
    )
    build.add_argument("--revision", help="the model's revision (default: the newest)")
    build.add_argument(
        "--batch-size", type=_whole(1), help="images in a batch (default: 512 on a graphics card, else 64)"
    )
    build.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    build.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="what the model calculates in; auto: bfloat16 where it is faster and gives the same embeddings",
    )
    build.add_argument(
        "--engine",
        choices=("local", "ray"),
        default="local",
        help="who embeds: processes of this machine (default), or actors on a Ray cluster",
    )
    build.add_argument(
        "--workers",
        type=_whole(1),
        help="how many embed at a time, one a graphics card (default: local 1; ray one a card, or one for "
        "four cores)",
    )
    build.add_argument("--address", help="a Ray cluster's, HOST:PORT or auto (default: this machine's own)")
    build.add_argument("--n-neighbors", type=_whole(2), default=15, help="UMAP's n_neighbors")
    build.add_argument("--min-dist", type=_min_dist, default=0.1, help="UMAP's min_dist, 0 to 1")
    build.add_argument(
        "--embedding-dtype", choices=("float32", "float16"), default="float32", help="as stored (float32)"
    )
    build.add_argument(
        "--projections", action="store_true", help="lay it out in eleven ways: a grid of UMAPs, PCA, t-SNE"
    )
    build.add_argument("--push", metavar="REPO", help="publish it there on the Hub, such as you/your-index")
    _add_publishing(build)


def _add_project(project: argparse.ArgumentParser) -> None:
    project.set_defaults(run=_project)
    project.add_argument("folder", type=Path)
    project.add_argument("--method", choices=("umap", "pca", "tsne"), default="umap")
    project.add_argument("--n-neighbors", type=_whole(2), default=15, help="UMAP's n_neighbors")
    project.add_argument("--min-dist", type=_min_dist, default=0.1, help="UMAP's min_dist, 0 to 1")
    project.add_argument("--perplexity", type=_whole(1), default=30, help="t-SNE's perplexity")


def _add_compare(compare: argparse.ArgumentParser) -> None:
    compare.set_defaults(run=_compare)
    compare.add_argument("folders", type=Path, nargs="+", metavar="folder")
    compare.add_argument("--out", type=Path, help="a folder for the tables as Markdown and CSV")


def _add_evaluate(evaluate: argparse.ArgumentParser) -> None:
    evaluate.set_defaults(run=_evaluate)
    evaluate.add_argument("folder", type=Path)
    evaluate.add_argument("--split", default="test", help="which split is held out (default test)")
    evaluate.add_argument("--source", help="where the held-out images are, if not in the index's own source")
    evaluate.add_argument("--limit", type=_whole(0), default=0, help="how many to draw, 0 = all (default)")
    evaluate.add_argument("--model", help="the model, if it is not where the manifest says")
    evaluate.add_argument("--batch-size", type=_whole(1), default=64)
    evaluate.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")


def _add_hygiene(hygiene: argparse.ArgumentParser) -> None:
    hygiene.set_defaults(run=_hygiene)
    hygiene.add_argument("folder", type=Path)
    hygiene.add_argument("--out", type=Path, help="a folder for CSV files of everything that was found")


def _add_checked(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path)
    command.add_argument(
        "--model", help="the model to embed again with, if it is not where the manifest says"
    )


def _add_publishing(command: argparse.ArgumentParser) -> None:
    command.add_argument("--private", action="store_true", help="a new dataset is for its owner only")
    command.add_argument("--tag", help="a name for the published revision, such as v1")
    command.add_argument("--message", help="the commit's message")


def _build(options: argparse.Namespace) -> int:
    from index.build import BuildRequest, build_index  # slow import: scikit-learn

    source = SourceRequest(
        source=options.source,
        split=options.split,
        image_column=options.image_column,
        label_column=options.label_column,
        limit=options.limit,
        seed=options.seed,
        revision=options.source_revision,
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
        embedding_dtype=options.embedding_dtype,
        projections=options.projections,
        pooling=options.pooling,
        precision=options.precision,
    )
    if options.address and options.engine != "ray":
        return _fail("--address is a Ray cluster's: add --engine ray.", 2)
    if options.push:
        sign_in(options.push)  # better now than after an hour of embedding
    workers = Workers(options.engine, options.workers, options.address)
    manifest = build_index(request, options.out, workers=workers)
    _print_metrics(manifest)
    print(f"{options.out} is ready: python app.py --index {options.out}")
    if hint := advice(manifest):
        print(hint)
    return _check_and_publish(options, options.out, options.push, options.model) if options.push else 0


def _project(options: argparse.Namespace) -> int:
    from index.layouts import LayoutRequest, add_layout  # slow import: scikit-learn

    request = LayoutRequest(options.method, options.n_neighbors, options.min_dist, options.perplexity)
    name = add_layout(options.folder, request)
    print(f"{options.folder} has one more layout: {name}")
    _print_layouts(load_manifest(options.folder))
    return 0


def _approximate(options: argparse.Namespace) -> int:
    from index.cells import add_cells  # slow import: scikit-learn

    found = add_cells(options.folder).approximate
    print(
        f"{options.folder} has {found.cells:,} cells. A search looks through {found.probes} of them and "
        f"finds {100 * found.recall_at_10:.1f} % of the 10 nearest, measured on {found.queries} items."
    )
    return 0


def _compare(options: argparse.Namespace) -> int:
    names = [str(folder) for folder in options.folders]
    if len(names) < 2:
        return _fail("Name two indexes or more to compare.", 2)
    found = compare(names, [load_index(folder) for folder in options.folders])
    print(f"{found.common:,} common items, {found.judged:,} judged, leave-one-out, k=20")
    for table in comparison_tables(found):
        print("\n" + _lines(table))
    if options.out:
        print(f"\nWritten: {', '.join(str(file) for file in write_comparison(found, options.out))}")
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    from index.evaluate import EvaluationRequest, evaluate_index  # slow import: scikit-learn

    request = EvaluationRequest(
        split=options.split,
        source=options.source,
        limit=options.limit,
        model=options.model,
        batch_size=options.batch_size,
        device=options.device,
    )
    manifest = evaluate_index(options.folder, request)
    _print_rows(describe_evaluation(manifest))
    votes = manifest.evaluation.votes
    print("  k-NN accuracy by k: " + ", ".join(f"{k}: {share:.4f}" for k, share in votes.curve))
    for sentence in worst_confusions(votes, manifest.classes):
        print(f"  {sentence}")
    _print_calibration(manifest)
    return 0


def _hygiene(options: argparse.Namespace) -> int:
    index = load_index(options.folder)
    found = inspect(index, read_neighbors(options.folder), options.folder)
    kinds = {
        "Labels to look at": (found.suspects, "item"),
        "Outliers": (found.outliers, "item"),
        "Near-duplicates": (found.duplicates.pairs, "item"),
        "Held out, yet in the index": (found.leaks, "source_row"),
    }
    for title, (rows, number) in kinds.items():
        print(f"\n{title}: {len(rows):,}")
        for row in rows[:SHOWN]:
            print(f"  {getattr(row, number):>6}  {row.reason}")
    if options.out:
        files = write_tables(found, index, options.out)
        print(f"\nWritten: {', '.join(str(file) for file in files)}")
    return 0


def _check(options: argparse.Namespace) -> int:
    _print_check(options.folder, options.model)
    return 0


def _publish(options: argparse.Namespace) -> int:
    sign_in(options.repo)
    return _check_and_publish(options, options.folder, options.repo, options.model)


def _check_and_publish(options: argparse.Namespace, folder: Path, repo: str, model: str | None) -> int:
    from index.card import CARD, PICTURE, draw_map, make_card  # slow import: scikit-learn

    _print_check(folder, model)
    manifest = for_others(load_manifest(folder))
    card = make_card(manifest, repo, options.tag)
    files = {name: folder / name for name in manifest.files}
    files |= {MANIFEST: manifest_to_json(manifest).encode(), CARD: card.encode(), PICTURE: draw_map(folder)}
    message = options.message or f"Publish {manifest.title}: {manifest.count:,} items"
    done = publish(Publication(index_target(repo), files, message, options.private, options.tag))
    print(
        f"Published: {done.url}" if done.changed else f"Nothing has changed since the last time: {done.url}"
    )
    print(f"Revision {done.revision}: python app.py --index {repo} --revision {done.revision}")
    return 0


def _print_check(folder: Path, model: str | None) -> None:
    from index.check import check_index  # slow import: scikit-learn

    for line in check_index(folder, model):
        print(line, flush=True)
    print(f"{folder} keeps its promises.", flush=True)


def _print_metrics(manifest: Manifest) -> None:
    print(f"\n{manifest.title}: {manifest.count:,} items, {manifest.dimension} dimensions")
    _print_rows(describe_metrics(manifest))
    _print_layouts(manifest)
    if not manifest.source.labeled:
        print("  The source has no classes: metrics that need labels are left out.")


def _print_rows(rows: list[tuple[str, str, str]]) -> None:
    width = max((len(name) for name, _, _ in rows), default=0)
    for name, value, meaning in rows:
        print(f"  {name:{width}} {value:>8}  {meaning}")


def _print_calibration(manifest: Manifest) -> None:
    if manifest.calibration is None:
        return
    print(f"  Votes of {manifest.calibration.reliability_k} neighbors, by the share of the winning class:")
    for row in manifest.calibration.reliability:
        print(
            f"    from {row.least:.2f}: said to be right {100 * row.stated:.1f} %, were right "
            f"{100 * row.right / row.count:.1f} % of {row.count:,}"
        )


def _print_layouts(manifest: Manifest) -> None:
    rows, sentences = describe_layouts(manifest)
    if len(rows) < 2:
        return
    names = ("layout", "trustworthiness", "recall@15", "silhouette", "k-NN accuracy", "seconds")
    print("\n" + _lines([names, *(_layout_cells(row) for row in rows)]))
    for sentence in sentences:
        print(f"  {sentence}")


def _layout_cells(row: LayoutRow) -> tuple[str, ...]:
    figures = (row.trustworthiness, row.recall_at_15, row.silhouette, row.knn_accuracy)
    seconds = "" if row.seconds is None else f"{row.seconds:.1f}"
    return (layout_title(row), *("" if value is None else f"{value:.4f}" for value in figures), seconds)


def _lines(rows: Sequence[Sequence[str]]) -> str:
    """A table as indented lines: its first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  " + "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows
    )


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
