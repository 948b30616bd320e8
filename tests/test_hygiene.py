"""What was planted in a data set is found again, and every row says why it is listed."""

import csv
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from embedding.encoder import Dinov2Encoder
from index.build import BuildRequest, build_index, encode_image
from index.hygiene import (
    copies_of,
    find_leaks,
    inspect,
    label_suspects,
    near_duplicates,
    outliers,
    write_tables,
)
from index.manifest import FormatError
from index.quality import nearest_items
from index.source import SourceRequest
from index.store import Index, NeighborLists, load_index, read_neighbors
from tests.conftest import FASHION, MODEL, SAMPLE, needs_fashion, plain
from tests.pictures import file_of, noise


def neighbors_of(embeddings: np.ndarray) -> NeighborLists:
    nearest = nearest_items(embeddings, np.arange(len(embeddings)), 15)
    return NeighborLists(nearest.ids, (1 - nearest.similarities).astype(np.float32))


def with_flipped_labels(index: Index, count: int, seed: int) -> tuple[Index, set[int]]:
    rng = np.random.default_rng(seed)
    flipped = rng.choice(index.manifest.count, count, replace=False)
    labels = index.labels.copy()
    labels[flipped] = (labels[flipped] + rng.integers(1, 10, count)) % 10
    return replace(index, labels=labels), set(flipped.tolist())


def shifted(pixels: np.ndarray, rng: np.random.Generator) -> Image.Image:
    down, right = [(1, 0), (-1, 0), (0, 1), (0, -1)][rng.integers(4)]
    side = len(pixels)
    return Image.fromarray(np.pad(pixels, 1)[1 - down : 1 - down + side, 1 - right : 1 - right + side])


def noisy(pixels: np.ndarray, rng: np.random.Generator) -> Image.Image:
    return Image.fromarray((pixels + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8))


def compressed(pixels: np.ndarray, _: np.random.Generator) -> Image.Image:
    return Image.open(file_of(Image.fromarray(pixels), "JPEG", quality=60)).convert("L")


def darker(pixels: np.ndarray, _: np.random.Generator) -> Image.Image:
    return Image.fromarray((0.75 * pixels).astype(np.uint8))


def turned(pixels: np.ndarray, rng: np.random.Generator) -> Image.Image:
    return Image.fromarray(pixels).rotate(rng.choice([-3, 3]), Image.Resampling.BICUBIC)


def with_planted_copies(
    index: Index, encoder: Dinov2Encoder, count: int, seed: int
) -> tuple[Index, list[tuple[int, int]]]:
    """The index with `count` changed copies of its items at the end, and the pairs to find."""
    rng = np.random.default_rng(seed)
    originals = rng.choice(index.manifest.count, count, replace=False)
    changes = (shifted, noisy, compressed, darker, turned)
    copies = [
        changes[number % 5](np.asarray(Image.open(BytesIO(index.images[item])).convert("L")), rng)
        for number, item in enumerate(originals)
    ]
    total = index.manifest.count + count
    planted = Index(
        manifest=replace(index.manifest, count=total),
        images=index.images + [encode_image(copy) for copy in copies],
        labels=np.concatenate([index.labels, index.labels[originals]]),
        source_rows=np.arange(total, dtype=np.int32),
        embeddings=np.concatenate([index.embeddings, encoder.encode(copies)]),
        coordinates={name: np.zeros((total, 2), np.float32) for name in index.coordinates},
    )
    pairs = [(int(item), index.manifest.count + number) for number, item in enumerate(originals)]
    return planted, pairs


@pytest.fixture(scope="module")
def fashion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fashion") / "index"
    build_index(BuildRequest(SourceRequest(str(FASHION), limit=5000), model=str(MODEL)), out)
    return out


def test_flipped_labels_are_the_first_suspects_among_digits(sample: Index) -> None:
    index, flipped = with_flipped_labels(sample, 50, 0)
    suspects = label_suspects(index, read_neighbors(SAMPLE))
    assert len(flipped & {row.item for row in suspects[:60]}) >= 45
    assert all(row.suggested != row.label and row.margin > 0 for row in suspects)


def test_changed_copies_of_digits_are_found(sample: Index, encoder: Dinov2Encoder) -> None:
    planted, pairs = with_planted_copies(sample, encoder, 20, 0)
    found = near_duplicates(planted, neighbors_of(planted.embeddings))
    assert set(pairs) <= {(row.item, row.other) for row in found.pairs[:60]}
    assert {item for pair in pairs for item in pair} <= {item for group in found.groups for item in group}


@needs_fashion
@pytest.mark.slow
def test_flipped_labels_are_among_the_first_suspects_of_fashion_mnist(fashion: Path) -> None:
    index, flipped = with_flipped_labels(load_index(fashion), 50, 0)
    first = label_suspects(index, read_neighbors(fashion))[:100]
    assert len(flipped & {row.item for row in first}) >= 40


@needs_fashion
@pytest.mark.slow
def test_changed_copies_of_fashion_mnist_are_all_found(fashion: Path, encoder: Dinov2Encoder) -> None:
    planted, pairs = with_planted_copies(load_index(fashion), encoder, 20, 0)
    found = near_duplicates(planted, neighbors_of(planted.embeddings))
    assert set(pairs) <= {(row.item, row.other) for row in found.pairs}


def test_exact_copies_are_told_from_near_ones(sample: Index) -> None:
    copies = replace(
        plain(sample),
        manifest=replace(plain(sample).manifest, count=5002),
        images=[*sample.images, sample.images[7], sample.images[7]],
        labels=np.append(sample.labels, [sample.labels[7], (sample.labels[7] + 1) % 10]).astype(np.int32),
        source_rows=np.arange(5002, dtype=np.int32),
        embeddings=np.concatenate([sample.embeddings, sample.embeddings[[7, 7]]]),
        coordinates={"umap": np.zeros((5002, 2), np.float32)},
    )
    found = near_duplicates(copies, neighbors_of(copies.embeddings))
    exact = {(row.item, row.other): row.reason for row in found.pairs if row.exact}
    assert {(7, 5000), (7, 5001)} <= set(exact)
    assert "yet one is" in exact[7, 5001]
    assert any({7, 5000, 5001} <= set(group) for group in found.groups)


def test_reasons_count_the_neighbors(sample: Index) -> None:
    neighbors = read_neighbors(SAMPLE)
    row = label_suspects(sample, neighbors)[0]
    agreeing = int((sample.labels[neighbors.ids[row.item]] == row.suggested).sum())
    assert row.reason.startswith(f"{agreeing} of its 15 nearest are {sample.manifest.classes[row.suggested]}")


def test_margin_is_the_difference_of_two_shares(sample: Index) -> None:
    neighbors = read_neighbors(SAMPLE)
    for row in label_suspects(sample, neighbors)[:20]:
        weights = np.exp((1 - neighbors.distances[row.item]) / 0.07)
        voters = sample.labels[neighbors.ids[row.item]]
        shares = [weights[voters == label].sum() / weights.sum() for label in (row.suggested, row.label)]
        assert row.margin == pytest.approx(shares[0] - shares[1], abs=1e-5)


def test_noise_among_digits_is_the_first_outlier(sample: Index, encoder: Dinov2Encoder) -> None:
    strange = noise(28, 28).convert("L")
    embeddings = np.concatenate([sample.embeddings, encoder.encode([strange])])
    index = replace(
        plain(sample),
        manifest=replace(plain(sample).manifest, count=5001),
        images=[*sample.images, encode_image(strange)],
        labels=np.append(sample.labels, 0).astype(np.int32),
        source_rows=np.arange(5001, dtype=np.int32),
        embeddings=embeddings,
        coordinates={"umap": np.zeros((5001, 2), np.float32)},
    )
    found = outliers(index, neighbors_of(embeddings))
    assert 5000 in [row.item for row in found[:10]]
    assert [row.similarity for row in found] == sorted(row.similarity for row in found)
    assert len(found) == 51


def test_held_out_copy_of_an_item_is_a_leak(sample: Index, encoder: Dinov2Encoder) -> None:
    rng = np.random.default_rng(2)
    pixels = np.asarray(Image.open(BytesIO(sample.images[40])).convert("L"))
    images = [sample.images[11], encode_image(shifted(pixels, rng)), encode_image(noise(28, 28).convert("L"))]
    embedded = encoder.encode([Image.open(BytesIO(data)) for data in images])
    nearest = np.argsort(-embedded @ sample.embeddings.T, axis=1)[:, :15].astype(np.int32)
    assert find_leaks(sample, images, nearest) == {0: (11, True), 1: (40, False)}
    assert copies_of(sample, images) == {0: 11}


def test_index_without_classes_has_no_label_suspects(sample: Index) -> None:
    source = replace(sample.manifest.source, labeled=False)
    plain = replace(sample, manifest=replace(sample.manifest, source=source))
    assert label_suspects(plain, read_neighbors(SAMPLE)) == ()
    assert outliers(plain, read_neighbors(SAMPLE))


@pytest.mark.parametrize("count", [1, 2, 4])
def test_handful_of_photos_of_mixed_sizes_is_inspected(tmp_path: Path, count: int) -> None:
    (tmp_path / "few").mkdir()
    for number in range(count):
        noise(40 + 9 * number, 50, number).save(tmp_path / "few" / f"{number}.png")
    out = tmp_path / "index"
    build_index(BuildRequest(SourceRequest(str(tmp_path / "few"), limit=0), model=str(MODEL)), out)
    found = inspect(load_index(out), read_neighbors(out), out)
    assert found.duplicates.pairs == ()
    assert found.leaks == ()


def test_tables_are_written_with_names_and_source_rows(sample: Index, tmp_path: Path) -> None:
    found = inspect(sample, read_neighbors(SAMPLE), SAMPLE)
    files = write_tables(found, sample, tmp_path / "tables")
    assert [file.name for file in files] == [
        "label_suspects.csv", "outliers.csv", "near_duplicates.csv", "leaks.csv",
    ]  # fmt: skip
    with files[0].open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(found.suspects)
    first = found.suspects[0]
    assert rows[0]["label"] == sample.class_of(first.item)
    assert int(rows[0]["item_source_row"]) == sample.source_rows[first.item]


def test_neighbors_that_are_no_items_are_refused(tmp_path: Path, laid_out: Path) -> None:
    import shutil

    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = Path(shutil.copytree(laid_out, tmp_path / "index"))
    file = folder / "data/train-00000-of-00001.parquet"
    table = pq.read_table(file)
    ids = [[999_999] * 15] * table.num_rows
    column = pa.StructArray.from_arrays(
        [pa.array(ids, pa.list_(pa.int32())), table["neighbors"].combine_chunks().field("distances")],
        ["ids", "distances"],
    )
    pq.write_table(table.set_column(table.schema.get_field_index("neighbors"), "neighbors", column), file)
    with pytest.raises(FormatError, match="expected items"):
        read_neighbors(folder)
