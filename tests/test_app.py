"""The app's API, from real clients over HTTP."""

import base64
import json
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image, ImageOps

from index.manifest import manifest_to_json
from index.query import answer, query_item
from index.store import Index
from tests.conftest import MODEL, ROOT, SAMPLE
from tests.pictures import SVG, bomb, file_of, noise, photo_of, seven
from tests.server import running_app

QUERY = ["kind", "item", "label", "x", "y", "image"]
NEIGHBOR = ["rank", "item", "label", "similarity", "x", "y", "image"]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_app(log=tmp_path_factory.mktemp("app") / "log") as url:
        yield url


@pytest.fixture(scope="module")
def client(address: str) -> Client:
    return Client(address, verbose=False)


def sent(tmp_path: Path, data: bytes | BytesIO, name: str = "image.png") -> object:
    file = tmp_path / name
    file.write_bytes(data if isinstance(data, bytes) else data.getvalue())
    return handle_file(str(file))


def image_of(url: str) -> Image.Image:
    head, data = url.split(",")
    assert head.startswith("data:image/")
    return Image.open(BytesIO(base64.b64decode(data)))


def refused(client: Client, endpoint: str, *arguments: object) -> str:
    with pytest.raises(AppError) as caught:
        client.predict(*arguments, api_name=endpoint)
    sentence = str(caught.value)
    assert sentence.endswith(".")
    assert "Traceback" not in sentence
    assert str(ROOT) not in sentence
    return sentence


def test_api_schema_is_the_promised_one(client: Client) -> None:
    endpoints = client.view_api(return_format="dict")["named_endpoints"]
    found = {
        name: [
            (p["parameter_name"], p["parameter_has_default"], p["parameter_default"])
            for p in info["parameters"]
        ]
        for name, info in endpoints.items()
    }
    k = ("k", True, 10)
    assert found == {
        "/classes": [],
        "/about": [],
        "/map": [],
        "/query_class": [("label", False, None), k, ("seed", True, None)],
        "/query_item": [("item", False, None), k],
        "/query_image": [("image", False, None), k],
        "/query_sketch": [("image", False, None), k],
    }


def test_client_gets_classes_map_and_what_is_served(client: Client, sample: Index) -> None:
    assert client.predict(api_name="/classes") == {"classes": list("0123456789")}
    points = client.predict(api_name="/map")
    assert np.allclose(np.stack([points["x"], points["y"]], 1), sample.map)
    assert points["label"] == [sample.class_of(item) for item in range(5000)]
    about = client.predict(api_name="/about")
    assert about["model"]["id"] == "assets/model"
    assert about["counts"]["items"] == 5000
    assert about["metrics"]["knn_accuracy"] == sample.manifest.metrics.knn_accuracy
    assert about["versions"]["torch"]
    assert about["sample"] is True


def test_client_gets_neighbors_as_rows(client: Client, sample: Index) -> None:
    found = client.predict(77, 5, api_name="/query_item")
    assert list(found) == ["query", "neighbors", "vote", "calibrated", "unlike", "milliseconds"]
    assert list(found["query"]) == QUERY
    assert all(list(row) == NEIGHBOR for row in found["neighbors"])
    assert list(found["milliseconds"]) == ["prepare", "embed", "search"]
    due = answer(sample, query_item(sample, 77), 5)
    assert [row["item"] for row in found["neighbors"]] == [neighbor.item for neighbor in due.neighbors]
    assert [row["rank"] for row in found["neighbors"]] == [1, 2, 3, 4, 5]
    assert np.array_equal(
        np.asarray(image_of(found["neighbors"][0]["image"])),
        np.asarray(Image.open(BytesIO(sample.images[due.neighbors[0].item]))),
    )
    assert sum(row["share"] for row in found["vote"]) == pytest.approx(1)
    assert (found["query"]["kind"], found["query"]["item"], found["query"]["label"]) == ("item", 77, "0")


def test_k_defaults_to_ten_and_is_cut(client: Client) -> None:
    assert len(client.predict(3, api_name="/query_item")["neighbors"]) == 10
    assert len(client.predict(3, None, api_name="/query_item")["neighbors"]) == 10
    for k, rows in ((0, 1), (-1, 1), (2.5, 2), (10**9, 50)):
        assert len(client.predict(3, k, api_name="/query_item")["neighbors"]) == rows


def test_class_query_is_repeatable(client: Client) -> None:
    first, again = (client.predict("4", 3, 11, api_name="/query_class") for _ in range(2))
    assert first["query"] == again["query"]
    assert (first["query"]["kind"], first["query"]["label"]) == ("class", "4")


def test_photo_is_answered(client: Client, tmp_path: Path, sample: Index) -> None:
    photo = photo_of(Image.open(BytesIO(sample.images[2000])))
    found = client.predict(sent(tmp_path, file_of(photo, "JPEG"), "p.jpg"), 7, api_name="/query_image")
    assert (found["query"]["kind"], found["query"]["item"], found["query"]["label"]) == ("image", None, None)
    assert image_of(found["query"]["image"]).size == (28, 28)
    assert found["vote"][0]["label"] == sample.class_of(2000)
    assert len(found["neighbors"]) == 7


@pytest.mark.parametrize("endpoint", ["/query_image", "/query_sketch"])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("dark.png", file_of(seven())),
        ("light.png", file_of(ImageOps.invert(seven()))),
        ("cmyk.jpg", file_of(seven().convert("CMYK"), "JPEG")),
        ("one-bit.png", file_of(seven().convert("1"))),
        ("sixteen.png", file_of(Image.fromarray(np.asarray(seven(), np.uint16) * 257))),
        ("moving.gif", file_of(seven(), "GIF", save_all=True, append_images=[noise(280, 280)])),
        ("glass.gif", file_of(seven().convert("P"), "GIF", transparency=255)),
        ("no-suffix", file_of(seven(), "WEBP")),
        ("wrong-suffix.svg", file_of(seven())),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_seven_is_a_seven_in_every_format(
    client: Client, tmp_path: Path, endpoint: str, name: str, file: BytesIO
) -> None:
    found = client.predict(sent(tmp_path, file, name), api_name=endpoint)
    assert found["query"]["kind"] == endpoint.removeprefix("/query_")
    assert found["vote"][0]["label"] == "7"


def test_sketch_lies_within_its_class_on_the_map(client: Client, tmp_path: Path, sample: Index) -> None:
    found = client.predict(sent(tmp_path, file_of(seven())), api_name="/query_sketch")
    at = np.array([found["query"]["x"], found["query"]["y"]])
    near = np.linalg.norm(sample.map - at, axis=1).argsort()[:15]
    assert (sample.labels[near] == 7).mean() > 0.8


@pytest.mark.parametrize("endpoint", ["/query_image", "/query_sketch"])
@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "empty"),
        (b"only text", "is not a PNG"),
        (SVG, "is not a PNG"),
        (file_of(seven()).getvalue()[:700], "damaged"),
        (bomb().getvalue(), "million"),
        (file_of(noise(1500, 1400)).getvalue(), "the limit is 5 MB"),
    ],
    ids=["empty", "text", "svg", "truncated", "bomb", "6 MB"],
)
def test_bad_file_gets_one_sentence(
    client: Client, tmp_path: Path, endpoint: str, data: bytes, words: str
) -> None:
    assert words in refused(client, endpoint, sent(tmp_path, data), 3)


def test_bad_values_get_one_sentence(client: Client, tmp_path: Path) -> None:
    blank = sent(tmp_path, file_of(Image.new("L", (280, 280), 255)))
    assert "blank" in refused(client, "/query_sketch", blank, 3)
    assert "no image" in refused(client, "/query_image", None, 3)
    assert "blank" in refused(client, "/query_sketch", None, 3)
    assert "classes are 0, 1, 2" in refused(client, "/query_class", "cat")
    for item in (5000, -1, "x", None, 2.5):
        assert "item" in refused(client, "/query_item", item)
    assert "k must be a whole number" in refused(client, "/query_item", 1, "many")
    assert "k must be a whole number" in refused(client, "/query_image", blank, "many")
    assert client.predict(1, api_name="/query_item")["query"]["item"] == 1  # and the server lives on


def test_files_of_the_server_cannot_be_asked_for(client: Client, address: str) -> None:
    body = {"data": [{"path": str(ROOT / "LICENSE"), "meta": {"_type": "gradio.FileData"}}, 3]}
    lines = post_and_read(address, "query_image", body)
    assert "event: error" in lines
    assert "neighbors" not in lines


def post_and_read(address: str, endpoint: str, body: dict) -> str:
    """What curl does: POST the arguments, then GET the events."""
    url = f"{address}gradio_api/call/{endpoint}"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        event = json.load(response)["event_id"]
    with urllib.request.urlopen(f"{url}/{event}", timeout=60) as response:
        return response.read().decode()


def test_plain_http_works_as_with_curl(address: str) -> None:
    lines = post_and_read(address, "query_item", {"data": [12, 2]})
    assert lines.startswith("event: complete")
    (found,) = json.loads(lines.split("data: ")[1])
    assert [row["rank"] for row in found["neighbors"]] == [1, 2]
    lines = post_and_read(address, "v2/query_class", {"label": "5", "seed": 3})
    assert '"label": "5"' in lines


def test_data_url_is_an_image_too(address: str) -> None:
    url = "data:image/png;base64," + base64.b64encode(file_of(seven()).getvalue()).decode()
    body = {"data": [{"url": url, "meta": {"_type": "gradio.FileData"}}, 3]}
    assert '"label": "7"' in post_and_read(address, "query_sketch", body)


def test_large_data_url_is_told_its_size(address: str) -> None:
    url = "data:image/png;base64," + base64.b64encode(file_of(noise(1700, 1700)).getvalue()).decode()
    body = {"data": [{"url": url, "meta": {"_type": "gradio.FileData"}}, 3]}
    assert "the limit is 5 MB" in post_and_read(address, "query_image", body)


# ---- Starting


def test_taken_port_is_one_line_and_a_failure(address: str) -> None:
    done = app("--port", address.rstrip("/").split(":")[-1])
    assert done.returncode == 1
    assert "cannot be served" in done.stderr
    assert "Traceback" not in done.stderr


def app(*arguments: object, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "app.py", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


@pytest.mark.parametrize("index", ["no/such/index", "nowhere at all", str(ROOT / "tests")])
def test_missing_folder_is_one_line_and_a_failure(index: str) -> None:
    done = app("--index", index)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert index in done.stderr


def index_by_other_model(folder: Path, sample: Index) -> Path:
    """The sample, claiming to be made by a model that gives other vectors."""
    shutil.copytree(SAMPLE, folder)
    import pyarrow as pa
    import pyarrow.parquet as pq

    from index.store import file_sha256

    name = next(iter(sample.manifest.files))
    table = pq.read_table(folder / name)
    turned = np.roll(sample.embeddings, 1, axis=1)  # unit rows, but not the model's
    column = pa.FixedSizeListArray.from_arrays(pa.array(turned.ravel()), turned.shape[1])
    place = table.column_names.index("embedding")
    pq.write_table(table.set_column(place, "embedding", column), folder / name)
    manifest = replace(sample.manifest, files={name: file_sha256(folder / name)})
    (folder / "manifest.json").write_text(manifest_to_json(manifest))
    return folder


@pytest.mark.parametrize("fault", ["other model", "no model"])
def test_without_a_fitting_model_the_rest_still_works(tmp_path: Path, sample: Index, fault: str) -> None:
    if fault == "other model":
        arguments = ["--index", index_by_other_model(tmp_path / "index", sample)]
        words = "disagrees"
    else:
        arguments = ["--model", "nobody/no-such-model"]
        words = "nobody/no-such-model"
    with running_app(*arguments, log=tmp_path / "log") as url:
        client = Client(url, verbose=False)
        assert len(client.predict("3", api_name="/query_class")["neighbors"]) == 10
        assert words in refused(client, "/query_image", sent(tmp_path, file_of(seven())), 3)
        live = client.predict(api_name="/about")["live"]
        assert live["state"] == "unavailable"
        assert words in live["reason"]


def test_index_from_the_environment_is_opened(tmp_path: Path) -> None:
    shutil.copytree(SAMPLE, tmp_path / "mine")
    with running_app(log=tmp_path / "log", INDEX=str(tmp_path / "mine")) as url:
        about = Client(url, verbose=False).predict(api_name="/about")
        assert about["sample"] is False


def test_page_is_served_before_the_model_is_loaded(tmp_path: Path) -> None:
    with running_app("--model", MODEL, log=tmp_path / "log") as url:
        client = Client(url, verbose=False)
        states = {client.predict(api_name="/about")["live"]["state"]}
        found = client.predict(
            sent(tmp_path, file_of(seven())), api_name="/query_sketch"
        )  # waits for the model
        assert found["vote"][0]["label"] == "7"
        deadline = time.monotonic() + 60
        while "ready" not in states and time.monotonic() < deadline:
            states.add(client.predict(api_name="/about")["live"]["state"])
        assert states >= {"loading", "ready"}
