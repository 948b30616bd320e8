"""Every engine answers as the exact search does, or says how nearly, and none of them can stop the app."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from qdrant_client import QdrantClient

from app import main as run_app
from index import qdrant, searching
from index.__main__ import main
from index.approximate import CELLS, FaissSearch, fill, open_faiss, read_cells
from index.cells import find_cells
from index.check import check_index
from index.hub import fetch_index
from index.manifest import FormatError
from index.qdrant import QdrantSearch, collection_name, open_qdrant
from index.query import answer, query_item
from index.search import ExactSearch, Searcher, SearchError, recall_of, search, trial_of
from index.searching import Searching
from index.store import Index, load_index
from tests.conftest import SAMPLE
from tests.qdrant_server import serving

PATIENCE = 60  # seconds


@pytest.fixture(scope="module")
def cells_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample with cells."""
    folder = tmp_path_factory.mktemp("cells") / "index"
    shutil.copytree(SAMPLE, folder)
    assert main(["approximate", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def local() -> QdrantClient:
    return QdrantClient(":memory:")


@pytest.fixture(scope="module", params=["exact", "faiss", "qdrant"])
def searcher(
    request: pytest.FixtureRequest, sample: Index, cells_folder: Path, local: QdrantClient
) -> Searcher:
    if request.param == "faiss":
        return open_faiss(load_index(cells_folder), cells_folder)
    return ExactSearch(sample) if request.param == "exact" else QdrantSearch(local, sample)


def until(holds: Callable[[], object]) -> None:
    end = monotonic() + PATIENCE
    while not holds():
        assert monotonic() < end
        sleep(0.01)


# ---- Whatever the engine


def test_engine_finds_the_nearest(searcher: Searcher, sample: Index) -> None:
    assert recall_of(searcher, sample, trial_of(sample, 200, 10)) >= 0.98


def test_found_neighbors_are_real_and_in_order(searcher: Searcher, sample: Index) -> None:
    query = sample.embeddings[:2].sum(0) / np.linalg.norm(sample.embeddings[:2].sum(0))
    found = searcher.search(query, 50)
    items = [neighbor.item for neighbor in found]
    assert len(set(items)) == 50
    similarities = sample.embeddings[items].astype(np.float64) @ query.astype(np.float64)
    assert np.allclose([neighbor.similarity for neighbor in found], similarities, atol=1e-12)
    assert (np.diff(similarities) <= 0).all()
    assert [neighbor.label for neighbor in found] == sample.labels[items].tolist()


@pytest.mark.parametrize("item", [0, 42, 4999])
def test_excluded_item_is_not_found_and_one_more_takes_its_place(
    searcher: Searcher, sample: Index, item: int
) -> None:
    found = [neighbor.item for neighbor in searcher.search(sample.embeddings[item], 10, exclude=item)]
    assert len(found) == 10
    assert item not in found
    assert searcher.search(sample.embeddings[item], 1)[0].item == item


def test_more_neighbors_than_items_are_cut(searcher: Searcher, sample: Index) -> None:
    few = first_items(sample, 7)
    if isinstance(searcher, FaissSearch):
        engine: Searcher = FaissSearch(few, fill(few, find_cells(few.embeddings, 0)), 1)
    else:
        engine = ExactSearch(few) if isinstance(searcher, ExactSearch) else memory(few)
    assert {neighbor.item for neighbor in engine.search(few.embeddings[3], 50, exclude=3)} == {
        0,
        1,
        2,
        4,
        5,
        6,
    }


def test_query_of_another_length_is_refused(searcher: Searcher) -> None:
    with pytest.raises(ValueError, match=r"embedding has shape \(7,\), expected \(192,\)"):
        searcher.search(np.ones(7, np.float32), 3)


def test_answer_asks_the_searcher_that_it_is_given(searcher: Searcher, sample: Index) -> None:
    found = answer(sample, query_item(sample, 42), 10, searcher)
    assert found.neighbors == searcher.search(sample.embeddings[42], 15, exclude=42)[:10]


def first_items(index: Index, count: int) -> Index:
    manifest = replace(index.manifest, count=count)
    arrays = (index.labels[:count], index.source_rows[:count], index.embeddings[:count])
    maps = {name: points[:count] for name, points in index.coordinates.items()}
    return Index(manifest, index.images[:count], *arrays, maps)


def memory(index: Index) -> QdrantSearch:
    return QdrantSearch(QdrantClient(":memory:"), index)


# ---- FAISS


def test_approximate_index_keeps_its_promises(cells_folder: Path) -> None:
    lines = list(check_index(cells_folder))
    assert any(line.startswith("approximate search: each item in one of 128 cells") for line in lines)


def test_recall_in_the_manifest_is_what_a_search_finds(cells_folder: Path) -> None:
    index = load_index(cells_folder)
    stated = index.manifest.approximate
    found = open_faiss(index, cells_folder)
    due = {item: search(index, index.embeddings[item], 10, item) for item in range(0, 5000, 9)}
    hits = [
        len({n.item for n in found.search(index.embeddings[item], 10, item)} & {n.item for n in near}) / 10
        for item, near in due.items()
    ]
    assert stated.recall_at_10 >= 0.99
    assert abs(np.mean(hits) - stated.recall_at_10) < 0.01
    assert stated.probes < stated.cells


def test_shapeless_vectors_are_looked_through_until_enough_is_found(sample: Index, tmp_path: Path) -> None:
    """Random vectors have no cells worth the name: recall is kept by looking through more of them."""
    from index.cells import choose_probes

    rows = np.random.default_rng(0).normal(size=(3000, 192)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    index = replace(first_items(sample, 3000), embeddings=rows)
    chosen = choose_probes(index, find_cells(rows, 0), lambda _: None)
    assert chosen.recall_at_10 >= 0.99
    assert chosen.probes > chosen.cells // 4


def test_items_and_their_files_stay_as_they_were(cells_folder: Path, sample: Index) -> None:
    manifest = load_index(cells_folder).manifest
    assert {name: manifest.files[name] for name in sample.manifest.files} == sample.manifest.files
    assert set(manifest.files) - set(sample.manifest.files) == {CELLS}
    assert replace(manifest, files={}, approximate=None) == replace(sample.manifest, files={})


def test_cells_again_replace_the_old_ones(cells_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(cells_folder, tmp_path / "index"))
    assert main(["approximate", str(copy)]) == 0
    assert (copy / CELLS).read_bytes() == (cells_folder / CELLS).read_bytes()


def test_index_with_cells_opens_as_a_download_does(cells_folder: Path) -> None:
    assert fetch_index(str(cells_folder)) == cells_folder


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda center, items: (center, [*items[:-1], []]), "does not hold each of the 5,000 items once"),
        (
            lambda center, items: (center, [items[1], *items[1:]]),
            "does not hold each of the 5,000 items once",
        ),
        (lambda center, items: ([None, *center[1:]], items), "has gaps"),
        (lambda center, items: ([[float("nan")] * 192, *center[1:]], items), "not finite"),
    ],
    ids=["missing", "twice", "gap", "nan"],
)
def test_damaged_cells_are_named(cells_folder: Path, tmp_path: Path, damage: Callable, says: str) -> None:
    copy = Path(shutil.copytree(cells_folder, tmp_path / "index"))
    table = pq.read_table(copy / CELLS)
    columns = damage(table["center"].to_pylist(), table["items"].to_pylist())
    pq.write_table(pa.table(list(columns), schema=table.schema), copy / CELLS)
    with pytest.raises(FormatError, match=says):
        read_cells(copy, load_index(copy).manifest)
    engine = Searching(load_index(copy), copy, "faiss")
    engine.start()
    until(lambda: says in (engine.status.problem or ""))
    assert len(engine.search(load_index(copy).embeddings[0], 10)) == 10


def test_missing_faiss_is_said_with_the_way_to_get_it(cells_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "faiss.py").write_text("raise ImportError")
    script = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from index.__main__ import main; "
        f"sys.exit(main(['approximate', {str(cells_folder)!r}]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Approximate search needs FAISS, which is not installed: pip install faiss-cpu.\n"


# ---- Qdrant


def test_collection_is_filled_once(sample: Index) -> None:
    few, client = first_items(sample, 40), QdrantClient(":memory:")
    first = QdrantSearch(client, few)
    client.upsert = None  # a second call of it would fail
    again = QdrantSearch(client, few)
    assert again.search(few.embeddings[3], 5) == first.search(few.embeddings[3], 5)


def test_interrupted_upload_goes_on(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant, "AT_ONCE", 192 * 1000)
    few, client = first_items(sample, 3500), QdrantClient(":memory:")
    sent, upsert = [], client.upsert

    def breaking(name: str, points: object, **named: object) -> object:
        if len(sent) == 2:
            raise ConnectionError("the line is dead")
        sent.append(points.ids[0])
        return upsert(name, points, **named)

    client.upsert = breaking
    with pytest.raises(SearchError, match="Qdrant does not answer: the line is dead"):
        QdrantSearch(client, few)
    client.upsert = lambda name, points, **named: (sent.append(points.ids[0]), upsert(name, points, **named))
    QdrantSearch(client, few)
    assert sent == [0, 1000, 2000, 3000]
    assert client.count(collection_name(few)).count == 3500


def test_indexes_do_not_share_a_collection_unless_their_vectors_are_equal(sample: Index) -> None:
    other = replace(sample, embeddings=np.roll(sample.embeddings, 1, 0))
    renamed = replace(sample, manifest=replace(sample.manifest, title="Other"))
    assert collection_name(other) != collection_name(sample) == collection_name(renamed)


def test_foreign_points_are_an_error_and_not_an_answer(sample: Index) -> None:
    few = first_items(sample, 50)
    found = memory(few)
    found._index = first_items(sample, 20)  # as if the collection held another index's points
    with pytest.raises(SearchError, match="holds other things than this index"):
        found.search(sample.embeddings[49], 10)


def test_vectors_that_were_lost_are_sent_again(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant, "AT_ONCE", 192 * 10)
    few, client = first_items(sample, 95), QdrantClient(":memory:")
    client.delete(QdrantSearch(client, few).collection, [3, 4, 44])
    assert QdrantSearch(client, few).recall_at_10 == 1
    assert client.count(collection_name(few)).count == 95


def test_collection_that_lost_vectors_is_an_error_and_not_a_shorter_answer(sample: Index) -> None:
    few = first_items(sample, 30)
    found = memory(few)
    found._client.delete(found.collection, list(range(5, 30)))
    with pytest.raises(SearchError, match="has lost vectors: delete it there"):
        found.search(few.embeddings[0], 10)


def test_url_without_a_qdrant_is_said_in_a_sentence(sample: Index) -> None:
    with pytest.raises(SearchError, match=r"^Qdrant does not answer: .*refused") as caught:
        open_qdrant(sample, "http://127.0.0.1:9")
    assert caught.value.temporary


def test_key_is_taken_from_the_environment(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    few = first_items(sample, 30)
    with serving(QdrantClient(":memory:"), key="secret") as server:
        with pytest.raises(SearchError, match="Qdrant does not answer"):
            open_qdrant(few, server.url)
        monkeypatch.setenv("QDRANT_API_KEY", "secret")
        assert open_qdrant(few, server.url).search(few.embeddings[0], 3)[0].item == 0


# ---- In the app


def test_search_goes_over_to_qdrant_and_outlives_it(
    sample: Index, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(searching, "REST", 0.2)
    monkeypatch.setattr(searching, "pauses", lambda: iter([0.1] * 500))
    few, client = first_items(sample, 1200), QdrantClient(":memory:")
    due = search(few, few.embeddings[5], 10, exclude=5)
    with serving(client) as server:
        port = server.server_address[1]
        engine = Searching(few, SAMPLE, server.url)
        assert engine.search(few.embeddings[5], 10, exclude=5) == due
        assert (engine.status.asked, engine.status.answering) == ("qdrant", "exact")
        engine.start()
        until(lambda: engine.status.answering == "qdrant")
        assert engine.search(few.embeddings[5], 10, exclude=5) == due
        assert engine.status.recall_at_10 == 1
    assert engine.search(few.embeddings[5], 10, exclude=5) == due
    assert engine.status.answering == "exact"
    assert "Qdrant does not answer" in engine.status.problem
    with serving(QdrantClient(":memory:"), port):  # it has come back without what it held
        until(lambda: engine.status.answering == "qdrant")
        assert engine.search(few.embeddings[5], 10, exclude=5) == due
        assert engine.status.problem is None
    said = re.findall("Exact search answers instead of qdrant.*", capsys.readouterr().err)
    assert said
    assert len(said) == len(set(said))


def test_qdrant_that_comes_late_is_taken(sample: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "pauses", lambda: iter([0.1] * 500))
    few = first_items(sample, 100)
    with serving(QdrantClient(":memory:")) as server:
        url, port = server.url, server.server_address[1]
    engine = Searching(few, SAMPLE, url)
    engine.start()
    until(lambda: "does not answer" in (engine.status.problem or ""))
    with serving(QdrantClient(":memory:"), port):
        until(lambda: engine.status.answering == "qdrant")


def test_cells_are_used_by_themselves_and_said(cells_folder: Path) -> None:
    index = load_index(cells_folder)
    engine = Searching(index, cells_folder)
    assert engine.asked == "faiss"
    engine.start()
    until(lambda: engine.status.answering == "faiss")
    assert engine.status.recall_at_10 == index.manifest.approximate.recall_at_10


def test_index_without_cells_is_searched_exactly_and_says_why(sample: Index) -> None:
    assert Searching(sample, SAMPLE).status.asked == "exact"
    engine = Searching(sample, SAMPLE, "faiss")
    engine.start()
    until(lambda: engine.status.problem != "It is still being opened.")
    assert engine.status.problem.startswith("This index has no cells to search in")
    assert engine.search(sample.embeddings[0], 5) == search(sample, sample.embeddings[0], 5)


def test_approximate_search_is_offered_above_200_000_items(sample: Index) -> None:
    assert searching.advice(sample.manifest) is None
    assert searching.advice(replace(sample.manifest, count=200_000)) is None
    assert "python -m index approximate" in searching.advice(replace(sample.manifest, count=200_001))


@pytest.mark.parametrize("probes", [0, -1, 129])
def test_manifest_that_cannot_be_searched_by_is_refused(
    cells_folder: Path, tmp_path: Path, probes: int
) -> None:
    copy = Path(shutil.copytree(cells_folder, tmp_path / "index"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["approximate"]["probes"] = probes
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(FormatError, match="wrong at approximate"):
        load_index(copy)


@pytest.mark.parametrize("setting", ["magic", "http://", "http://localhost:abc", "ftp://localhost:6333"])
def test_unknown_search_is_refused_in_a_sentence(setting: str, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as left:
        run_app(["--search", setting])
    assert left.value.code == 2
    assert "must be auto, exact, faiss or the URL of a Qdrant" in capsys.readouterr().err
