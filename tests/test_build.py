"""An index is built from real images, survives interruption, and appears whole or not at all."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from index.build import BuildRequest, build_index, pixel_rows
from index.check import check_index
from index.source import SourceError, SourceRequest
from index.store import Index, load_index
from tests.conftest import FASHION, MODEL, ROOT, needs_fashion
from tests.pictures import noise

QUIET = {**os.environ, "TQDM_DISABLE": "1"}


def request(source: Path, **options) -> BuildRequest:
    return BuildRequest(
        SourceRequest(str(source), limit=options.pop("limit", 0)), model=str(MODEL), **options
    )


@pytest.fixture(scope="module")
def digits(sample: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 digits as PNG files, a folder a class, and one file that is no image."""
    folder = tmp_path_factory.mktemp("digits")
    for item in range(0, 5000, 17):
        file = folder / sample.class_of(item) / f"{item:04d}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(sample.images[item])
    (folder / "3" / "0000-broken.png").write_bytes(b"\x89PNG, or so it says")
    return folder


@pytest.fixture(scope="module")
def built(digits: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    said: list[str] = []
    out = tmp_path_factory.mktemp("out") / "index"
    build_index(request(digits), out, said.append)
    return out, said


def test_built_index_keeps_its_promises(built: tuple[Path, list[str]]) -> None:
    index = load_index(built[0])
    assert len(list(check_index(built[0]))) == 9
    assert index.manifest.count == 295
    assert index.manifest.preparation.box == 20
    assert index.manifest.metrics.knn_accuracy > 0.8


def test_half_precision_build_measures_what_it_stores(digits: Path, tmp_path: Path) -> None:
    from sklearn.metrics import silhouette_score

    manifest = build_index(request(digits, embedding_dtype="float16"), tmp_path / "half", lambda line: None)
    assert len(list(check_index(tmp_path / "half"))) == 9
    table = pq.read_table(tmp_path / "half/data")
    stored = np.stack(table["embedding"].to_numpy()).astype(np.float64)
    score = silhouette_score(stored, table["label"].to_numpy(), metric="cosine")
    assert score == pytest.approx(manifest.metrics.silhouette_embedding, abs=1e-6)
    unit = stored / np.linalg.norm(stored, axis=1, keepdims=True)
    similarities = unit @ unit.T - 2 * np.eye(len(unit))
    nearest = np.argsort(-similarities, axis=1, kind="stable")[:, :5]
    same = table["label"].to_numpy()[nearest] == table["label"].to_numpy()[:, None]
    assert same.mean() == pytest.approx(manifest.metrics.precision_at_5, abs=1e-6)
    listed = [row["ids"][:5] for row in table["neighbors"].to_pylist()]
    assert np.array_equal(nearest, listed)


def test_pixels_go_in_untouched(built: tuple[Path, list[str]], digits: Path) -> None:
    index = load_index(built[0])
    files = sorted(file for file in digits.rglob("*.png") if "broken" not in file.name)
    for item in range(0, 295, 30):
        stored, given = (Image.open(BytesIO(data)) for data in (index.images[item], files[item].read_bytes()))
        assert np.array_equal(np.asarray(stored), np.asarray(given))
        assert index.class_of(item) == files[item].parent.name


def test_corrupt_image_is_skipped_counted_and_named(built: tuple[Path, list[str]]) -> None:
    out, said = built
    assert load_index(out).manifest.source.skipped == 1
    assert any("Skipped 1 unreadable image" in line and "3/0000-broken.png" in line for line in said)


def test_nothing_is_left_beside_the_index(built: tuple[Path, list[str]]) -> None:
    assert [path.name for path in built[0].parent.iterdir()] == ["index"]


def test_same_build_gives_the_same_bytes(built: tuple[Path, list[str]], digits: Path, tmp_path: Path) -> None:
    build_index(request(digits), tmp_path / "again")
    first, second = (sorted(folder.rglob("*.*")) for folder in (built[0], tmp_path / "again"))
    assert [file.name for file in first] == [file.name for file in second]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(first, second, strict=True))


def test_color_photos_of_mixed_sizes(tmp_path: Path) -> None:
    for number in range(8):
        folder = tmp_path / "photos" / ("blue", "red")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.new("RGB", (300 + 20 * number, 200), ("navy", "darkred")[number % 2])
        picture.paste(noise(60, 60, number), (40, 40))
        picture.save(folder / f"{number}.jpg")
    build_index(request(tmp_path / "photos"), tmp_path / "out")
    index = load_index(tmp_path / "out")
    assert {Image.open(BytesIO(data)).size for data in index.images} == {(256, 256)}
    assert not index.manifest.preparation.grayscale
    assert len(list(check_index(tmp_path / "out"))) == 9
    red = [np.asarray(Image.open(BytesIO(data)).convert("RGB"))[-1, -1, 0] > 64 for data in index.images]
    assert [index.class_of(item) == "red" for item in range(8)] == red


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_a_handful_of_photos_is_enough(tmp_path: Path, count: int) -> None:
    (tmp_path / "few").mkdir()
    for number in range(count):
        noise(40, 50, number).save(tmp_path / "few" / f"{number}.png")
    manifest = build_index(request(tmp_path / "few"), tmp_path / "out")
    assert manifest.count == count
    assert manifest.metrics.knn_accuracy is None
    assert manifest.metrics.silhouette_map is None
    assert len(list(check_index(tmp_path / "out"))) == 9


def test_foreign_folder_is_never_replaced(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear aunt")
    with pytest.raises(SourceError, match="exists and is not an index"):
        build_index(request(digits), tmp_path)
    assert (tmp_path / "letter.txt").read_text() == "dear aunt"


def test_older_index_is_replaced(built: tuple[Path, list[str]], digits: Path, tmp_path: Path) -> None:
    shutil.copytree(built[0], tmp_path / "index")
    build_index(replace(request(digits, limit=60), title="Sixty"), tmp_path / "index")
    assert load_index(tmp_path / "index").manifest.title == "Sixty"
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


def test_source_of_nothing_but_broken_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set/a.png").write_text("no")
    with pytest.raises(SourceError, match="None of the 1 images"):
        build_index(request(tmp_path / "set"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_builds_do_not_write_the_same_index(digits: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    (tmp_path / "out.partial").mkdir()
    with FileLock(tmp_path / "out.partial" / "lock"), pytest.raises(SourceError, match="Another build"):
        build_index(request(digits), tmp_path / "out")


def test_raw_pixels_are_unit_rows(sample: Index) -> None:
    rows = pixel_rows(sample.images[:20])
    assert rows.shape == (20, 784)
    assert np.allclose(np.linalg.norm(rows, axis=1), 1)


# ---- The command line


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "index", *map(str, arguments)]


def run(*arguments: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=QUIET, capture_output=True, text=True, check=False, **options
    )


def parts_of(work: Path) -> list[Path]:
    return sorted((work / "embeddings").glob("*.npy"))


def kill_when(process: subprocess.Popen, reached) -> None:
    """SIGKILL as soon as `reached()`; what was written until then is all that is left."""
    while process.poll() is None and not reached():
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.mark.slow
def test_killed_build_goes_on_to_the_same_bytes(sample: Index, tmp_path: Path) -> None:
    source = tmp_path / "set"
    source.mkdir()
    for item in range(0, 5000, 3):  # 1,667 images: four parts of embeddings
        (source / f"{item:04d}.png").write_bytes(sample.images[item])
    build = ("build", source, "--model", MODEL, "--limit", 0)
    work = tmp_path / "cut.partial"
    process = subprocess.Popen(
        command(*build, "--out", tmp_path / "cut"), cwd=ROOT, env=QUIET, stdout=subprocess.PIPE
    )
    kill_when(process, lambda: len(parts_of(work)) >= 2)
    process.stdout.close()
    finished = [file.stat().st_mtime_ns for file in parts_of(work)]
    assert 2 <= len(finished) < 4
    assert not (tmp_path / "cut").exists()

    again = run(*build, "--out", tmp_path / "cut")
    assert again.returncode == 0, again.stderr
    assert "Going on: " in again.stdout
    assert not work.exists()
    whole = run(*build, "--out", tmp_path / "whole")
    assert whole.returncode == 0, whole.stderr
    resumed, plain = load_index(tmp_path / "cut"), load_index(tmp_path / "whole")
    assert resumed.embeddings.tobytes() == plain.embeddings.tobytes()
    assert resumed.manifest == plain.manifest


def test_other_arguments_start_anew_and_say_so(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial/request.json").write_text("another request")
    (tmp_path / "out.partial/images.parquet").write_text("of another source")
    said: list[str] = []
    build_index(request(digits, limit=40), tmp_path / "out", said.append)
    assert said[0] == "An interrupted build with other arguments is here: starting anew."
    assert load_index(tmp_path / "out").manifest.count == 40


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("no-such-source", "--model", MODEL), "There is no folder no-such-source"),
        (("nobody/has-this", "--model", MODEL), "nobody/has-this"),
        ((ROOT / "tests", "--model", MODEL), "There are no images in"),
        ((ROOT / "assets", "--model", "no/model"), "no/model"),
        ((ROOT / "assets", "--limit", "-1"), "not a whole number of 0 or more"),
        ((ROOT / "assets", "--limit", "many"), "not a whole number of 0 or more"),
        ((ROOT / "assets", "--n-neighbors", "1"), "not a whole number of 2 or more"),
        ((ROOT / "assets", "--min-dist", "7"), "not a number from 0 to 1"),
        ((ROOT / "assets", "--model", MODEL, "--device", "abacus"), "abacus is not available"),
    ],
)
def test_bad_argument_is_one_line_and_a_failure(tmp_path: Path, arguments: tuple, words: str) -> None:
    done = run("build", *arguments, "--out", tmp_path / "out")
    assert done.returncode in (1, 2)
    assert words in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written_is_one_line(digits: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    done = run("build", digits, "--model", MODEL, "--out", tmp_path / "file" / "index")
    assert done.returncode == 1
    assert done.stderr.startswith("Cannot read or write")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_full_disk_is_one_line_and_keeps_what_is_done(sample: Index, tmp_path: Path) -> None:
    for item in range(700):
        file = tmp_path / "set" / f"{item}.png"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(sample.images[item])
    build = ("build", tmp_path / "set", "--model", MODEL, "--out", tmp_path / "out")

    def no_large_files() -> (
        None
    ):  # 300 kB: enough for the images and not for the first part of the embeddings
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))

    done = run(*build, preexec_fn=no_large_files)
    assert done.returncode == 1
    assert "Cannot read or write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    again = run(*build)
    assert again.returncode == 0
    assert "Going on with the images that were read before." in again.stdout


@needs_fashion
@pytest.mark.slow
def test_fashion_mnist_reaches_its_figures(tmp_path: Path) -> None:
    source = SourceRequest(str(FASHION), limit=5000)
    metrics = build_index(BuildRequest(source, model=str(MODEL)), tmp_path / "fashion").metrics
    assert 0.88 < metrics.knn_accuracy < 0.90
    assert metrics.silhouette_map == pytest.approx(0.31, abs=0.04)
    assert metrics.knn_accuracy - metrics.pixel_knn_accuracy > 0.08


# ---- What a review found


def test_photos_smaller_and_larger_than_the_baseline_go_together(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    for number, side in enumerate((20, 200, 33, 31)):
        noise(side, side, number).save(tmp_path / "set" / f"{number}.png")
    assert build_index(request(tmp_path / "set"), tmp_path / "out").count == 4


def test_only_what_a_build_made_is_cleared_away(digits: Path, tmp_path: Path) -> None:
    for name in ("out.partial", "out.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "letter.txt").write_text("dear aunt")
    with pytest.raises(SourceError, match=r"out\.partial exists"):
        build_index(request(digits), tmp_path / "out")
    shutil.rmtree(tmp_path / "out.partial")
    build_index(request(digits, limit=40), tmp_path / "out")
    assert (tmp_path / "out.old/letter.txt").read_text() == "dear aunt"


def test_file_names_in_an_old_encoding_do_no_harm(sample: Index, tmp_path: Path) -> None:
    for number, name in enumerate((b"caf\xe9", b"th\xe9")):
        folder = os.fsencode(tmp_path / "set") + b"/" + name
        Path(os.fsdecode(folder)).mkdir(parents=True)
        Path(os.fsdecode(folder), "a.png").write_bytes(sample.images[number])
        Path(os.fsdecode(folder + b"/\xff.png")).write_bytes(b"broken")
    said: list[str] = []
    build_index(request(tmp_path / "set"), tmp_path / "out", said.append)
    assert load_index(tmp_path / "out").manifest.classes == ("caf�", "th�")
    assert any("Skipped 2" in line for line in said)
