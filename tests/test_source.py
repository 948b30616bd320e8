"""A source becomes images with labels, whatever its layout."""

from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Image, List, Value

from index.source import PRESETS, UNLABELED, SourceError, SourceRequest, read_source, sample_rows
from tests.conftest import FASHION, needs_fashion
from tests.pictures import file_of, noise


def request(source: object, **options) -> SourceRequest:
    return SourceRequest(str(source), **options)


def write_images(folder: Path, names: list[str]) -> None:
    for number, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        noise(20, 16, number).save(file)


def write_parquet(folder: Path, labels: list, feature: object, split: str = "train") -> None:
    images = [
        {"bytes": file_of(noise(8, 8, number)).getvalue(), "path": None} for number in range(len(labels))
    ]
    features = Features({"picture": Image(), "kind": feature})
    folder.mkdir(parents=True, exist_ok=True)
    Dataset.from_dict({"picture": images, "kind": labels}, features=features).to_parquet(
        folder / f"{split}-00000-of-00001.parquet"
    )


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def test_sample_is_drawn_by_the_seed() -> None:
    rows = sample_rows(60_000, 5000, 42)
    assert len(set(rows)) == 5000
    assert rows == tuple(sorted(rows)) == sample_rows(60_000, 5000, 42)
    assert rows != sample_rows(60_000, 5000, 43)
    assert sample_rows(7, 0, 1) == sample_rows(7, 100, 1) == tuple(range(7))


@needs_fashion
def test_fashion_mnist_is_read_with_its_usual_class_names() -> None:
    found = read_source(request(FASHION, limit=100))
    assert found.classes[0] == "T-shirt/top"
    assert (found.source.rows, len(found.rows), found.source.license) == (60_000, 100, "mit")
    items = list(found.read(found.rows[:5]))
    assert [item.row for item in items] == list(found.rows[:5])
    assert all(item.data.startswith(b"\x89PNG") for item in items)


@needs_fashion
def test_split_is_obeyed() -> None:
    assert read_source(request(FASHION, split="test", limit=10)).source.rows == 10_000
    with pytest.raises(SourceError, match="cannot be read"):
        read_source(request(FASHION, split="validation"))


def test_presets_are_real_hub_ids() -> None:
    assert {name: preset.id for name, preset in PRESETS.items()} == {
        "fashion-mnist": "zalando-datasets/fashion_mnist",
        "mnist": "ylecun/mnist",
        "cifar10": "uoft-cs/cifar10",
    }


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set", [0, 1, 0], ClassLabel(names=["cat", "dog"]))
    found = read_source(request(tmp_path / "set"))
    assert (found.source.image_column, found.source.label_column) == ("picture", "kind")
    assert [item.label for item in found.read(found.rows)] == [0, 1, 0]
    with pytest.raises(SourceError, match="no image column kind: its image columns are picture"):
        read_source(request(tmp_path / "set", image_column="kind"))
    with pytest.raises(SourceError, match="no column species: its columns are picture, kind"):
        read_source(request(tmp_path / "set", label_column="species"))


def test_text_labels_become_classes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set", ["owl", None, "bat", "owl"], Value("string"))
    found = read_source(request(tmp_path / "set", label_column="kind"))
    assert found.classes == ("bat", "owl", UNLABELED)
    assert [item.label for item in found.read(found.rows)] == [1, 2, 0, 1]


def test_rows_without_a_label_get_their_own_class(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set", [0, -1, 1], ClassLabel(names=["cat", "dog"]))
    assert read_source(request(tmp_path / "set")).classes == ("cat", "dog", UNLABELED)


def test_source_without_labels_is_one_class(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set", [3, 1], Value("int64"))
    found = read_source(request(tmp_path / "set"))
    assert len(found.classes) == 1
    assert not found.source.labeled


def test_subfolders_are_classes(tmp_path: Path) -> None:
    write_images(
        tmp_path, ["cat/1.png", "cat/deep/2.jpg", "dog/1.JPG", "dog/notes.png.txt.webp", ".git/x.png"]
    )
    (tmp_path / "cat/readme.txt").write_text("not an image")
    found = read_source(request(tmp_path))
    assert found.classes == ("cat", "dog")
    items = list(found.read(found.rows))
    assert [(item.name, item.label) for item in items] == [
        ("cat/1.png", 0),
        ("cat/deep/2.jpg", 0),
        ("dog/1.JPG", 1),
        ("dog/notes.png.txt.webp", 1),
    ]


def test_flat_folder_is_one_class(tmp_path: Path) -> None:
    write_images(tmp_path, ["a.png", "b.png"])
    found = read_source(request(tmp_path))
    assert found.classes == ("images",)
    assert not found.source.labeled


def test_split_folders_are_told_from_classes(tmp_path: Path) -> None:
    write_images(tmp_path / "split", ["train/cat/1.png", "train/dog/1.png", "test/cat/2.png"])
    assert read_source(request(tmp_path / "split")).source.rows == 2
    assert read_source(request(tmp_path / "split", split="test")).source.rows == 1
    write_images(tmp_path / "vehicles", ["train/1.png", "bus/1.png"])
    assert read_source(request(tmp_path / "vehicles")).classes == ("bus", "train")


@pytest.mark.parametrize("source", ["no/such/folder/at/all", "nothing-here", "", "https://example.org/x"])
def test_source_that_is_none_is_said_in_a_sentence(source: str) -> None:
    with pytest.raises(SourceError, match="There is no folder"):
        read_source(request(source))


def test_folder_without_images_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing to see")
    with pytest.raises(SourceError, match="There are no images in"):
        read_source(request(tmp_path))


def test_hub_dataset_out_of_reach_is_said_in_a_sentence() -> None:
    with pytest.raises(SourceError, match="nobody/has-this"):
        read_source(request("nobody/has-this"))


def test_damaged_parquet_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(SourceError, match="cannot be read"):
        read_source(request(tmp_path))


def test_columns_that_name_no_classes_are_passed_over(tmp_path: Path) -> None:
    images = [{"bytes": file_of(noise(8, 8, number)).getvalue(), "path": None} for number in range(2)]
    features = Features({"image": Image(), "labels": List(Value("int64")), "score": Value("float32")})
    (tmp_path / "set").mkdir()
    rows = {"image": images, "labels": [[1, 2], [3]], "score": [0.5, float("nan")]}
    Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "set" / "train-00000-of-00001.parquet")
    assert not read_source(request(tmp_path / "set")).source.labeled
    for column in ("labels", "score"):
        with pytest.raises(SourceError, match="holds no classes"):
            read_source(request(tmp_path / "set", label_column=column))


def test_revision_of_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is a folder and has no revisions"):
        read_source(request(tmp_path, revision="v1"))


def test_split_without_any_label_counts_as_unlabeled(tmp_path: Path) -> None:
    write_parquet(tmp_path / "set", [-1, -1, -1], ClassLabel(names=["cat", "dog"]))
    assert not read_source(request(tmp_path / "set")).source.labeled


def test_missing_image_is_an_unreadable_one_and_foreign_paths_are_not_followed(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    secret = tmp_path / "secret.png"
    noise(8, 8).save(secret)
    write_parquet(tmp_path / "set", [0, 1, 0], ClassLabel(names=["cat", "dog"]))
    file = tmp_path / "set" / "train-00000-of-00001.parquet"
    table = pq.read_table(file)
    pictures = [
        {"bytes": None, "path": None},
        {"bytes": None, "path": str(secret)},
        table["picture"][2].as_py(),
    ]
    column = pa.array(pictures, table.schema.field("picture").type)
    pq.write_table(table.set_column(0, table.schema.field("picture"), column), file)
    found = read_source(request(tmp_path / "set"))
    assert [bool(item.data) for item in found.read(found.rows)] == [False, False, True]
