"""The commands: build, publish, the card's snippet, the Space; with the real clients against a Hub."""

# ruff: noqa: F811  (fixtures come in by import)

import json
import re
import shutil
import subprocess
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.check import check_index
from index.manifest import fingerprint, manifest_to_json
from index.search import search
from index.store import MANIFEST, Index, load_index, load_manifest
from tests.conftest import MODEL, ROOT, SAMPLE
from tests.hub_fixtures import FREE_PORT, Client, client, hub  # noqa: F401
from tests.hub_server import HubServer
from tests.test_check import saved  # noqa: F401

ID = "tester/digits"
SOURCE = "zalando/fashion"
LOAD = f"""
import importlib.util
assert importlib.util.find_spec("index") is None
from datasets import ClassLabel, Image, List, load_dataset
rows = load_dataset("{ID}")["train"]
first = next(iter(load_dataset("{ID}", split="train", streaming=True, revision="v1")))
assert isinstance(rows.features["image"], Image) and isinstance(rows.features["label"], ClassLabel)
assert rows.features["embedding"].length == len(first["embedding"]) == 192
assert first["image"].size == (28, 28) and len(first["neighbors"]["ids"]) == 15
from huggingface_hub import DatasetCard
DatasetCard.load("{ID}").validate()
print(len(rows))
"""


def snippet(card: str) -> str:
    """The program in a card."""
    return re.search(r"```python\n(.*?)```", card, re.S)[1]


def test_published_index_loads_without_this_project(
    client: Client, hub: HubServer, sample: Index, tmp_path: Path
) -> None:
    done = client.run("-m", "index", "publish", str(SAMPLE), ID, "--tag", "v1", "--message", "First")
    assert done.returncode == 0, done.stderr
    revision = hub.repo(ID).tags["v1"]
    assert "keeps its promises" in done.stdout
    assert (
        f"Published: {hub.url}/datasets/{ID}\nRevision {revision}: python app.py --index {ID}" in done.stdout
    )
    assert hub.repo(ID).commits[revision].title == "First"
    assert set(hub.repo(ID).head().files) >= {"README.md", "manifest.json", "map.png"}

    loaded = client.run("-c", LOAD, cwd=tmp_path)
    assert loaded.stdout.split() == ["5000"], loaded.stderr
    program = snippet(hub.read(ID, "README.md").decode())
    assert len([line for line in program.splitlines() if line]) == 5
    assert f'"{ID}", split="train", revision="v1"' in program
    printed = [int(item) for item in re.findall(r"\d+", client.run("-c", program, cwd=tmp_path).stdout)]
    assert printed == [neighbor.item for neighbor in search(sample, sample.embeddings[0], 10, exclude=0)]


def test_published_index_names_a_model_folder_without_its_path(
    client: Client, hub: HubServer, saved: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "private" / "my-model"
    shutil.copytree(MODEL, folder)
    manifest = load_manifest(saved)
    model = replace(manifest.model, id=str(folder))
    local = replace(manifest, model=model, fingerprint=fingerprint(model, manifest.preparation))
    (saved / MANIFEST).write_text(manifest_to_json(local), encoding="utf-8")

    done = client.run("-m", "index", "publish", str(saved), ID)
    assert done.returncode == 0, done.stderr
    assert "embeds images again to the same vectors" in done.stdout  # found where the local manifest says
    for name in hub.repo(ID).head().files:
        assert b"private" not in hub.read(ID, name), name
    fetched = tmp_path / "fetched"
    (fetched / "data").mkdir(parents=True)
    for name in (MANIFEST, *local.files):
        (fetched / name).write_bytes(hub.read(ID, name))
    assert load_manifest(fetched).model == replace(model, id="my-model")
    assert "NOT verified. The model my-model is no folder here" in list(check_index(fetched))[-1]
    assert "the same vectors" in list(check_index(fetched, str(folder)))[-1]


def test_unsound_index_is_not_published(client: Client, hub: HubServer, tmp_path: Path) -> None:
    (tmp_path / "index").mkdir()
    done = client.run("-m", "index", "publish", str(tmp_path / "index"), ID)
    assert done.returncode == 1
    assert "is not an index: it has no readable manifest.json" in done.stderr
    assert not hub.hub.repos


def test_build_without_login_stops_before_the_work(client: Client, tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ["build", str(SAMPLE), "--model", str(MODEL), "--out", str(out), "--push", ID]
    done = client.run("-m", "index", *arguments, HF_TOKEN=None)
    assert (done.returncode, out.exists()) == (1, False)
    assert done.stderr.strip() == (
        "You are not logged in to the Hub: run `hf auth login` with a token that may write, or set HF_TOKEN."
    )


def put_source(hub: HubServer, sample: Index, n: int = 120) -> str:
    """A dataset laid out as Fashion-MNIST is on the Hub; its commit."""
    images = [{"bytes": data, "path": None} for data in sample.images[:n]]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array(images, kind), "label": sample.labels[:n].astype(np.int64)})
    names = [str(digit) for digit in range(10)]
    features = {"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}}
    info = {"info": {"features": features}}
    stream = BytesIO()
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(info)}), stream)
    card = b"---\nlicense: mit\nconfigs:\n- config_name: fashion_mnist\n  data_files:\n  - split: train\n"
    card += b"    path: fashion_mnist/train-*\n---\n"
    shard = "fashion_mnist/train-00000-of-00001.parquet"
    return hub.put(SOURCE, {"README.md": card, shard: stream.getvalue()})


@pytest.mark.slow
def test_build_takes_source_and_model_from_the_hub_and_pushes(
    client: Client, hub: HubServer, sample: Index, tmp_path: Path
) -> None:
    source = put_source(hub, sample)
    put_source(hub, sample, 100)  # newer, and not asked for
    files = {file.name: file.read_bytes() for file in MODEL.iterdir() if file.is_file()}
    model = hub.put("tester/dinov2", files, kind="models")
    out = tmp_path / "index"
    options = f"--source-revision {source} --model tester/dinov2 --revision {model}"
    options += f" --out {out} --push {ID} --tag v1"
    done = client.run("-m", "index", "build", SOURCE, *options.split())
    assert done.returncode == 0, done.stderr
    manifest = load_manifest(out)
    assert (manifest.source.id, manifest.source.revision) == (SOURCE, source)
    assert (manifest.model.id, manifest.model.revision) == ("tester/dinov2", model)
    assert "model: tester/dinov2 embeds images again to the same vectors" in done.stdout
    assert np.allclose(load_index(out).embeddings, sample.embeddings[:120], atol=1e-3)
    assert hub.repo(ID).tags["v1"] == hub.repo(ID).branches["main"]
    card = hub.read(ID, "README.md").decode()
    assert "source_datasets:\n- zalando/fashion" in card
    assert f"build {SOURCE} \\\n  --source-revision {source}" in card


def test_source_without_the_revision_is_one_sentence(client: Client, hub: HubServer, sample: Index) -> None:
    put_source(hub, sample)
    options = ["--source-revision", "v9", "--model", str(MODEL), "--out", str(client.home / "index")]
    done = client.run("-m", "index", "build", SOURCE, *options)
    assert done.returncode == 1
    assert done.stderr.strip() == f"{SOURCE} has no revision v9 on the Hub: its page lists those it has."


def test_space_holds_the_tracked_files_and_knows_its_index(client: Client, hub: HubServer) -> None:
    revision = hub.put(ID, {"manifest.json": b"{}"})
    hub.put("tester/demo", {"index/manifest.py": b"an older demo", "stale.py": b""}, kind="spaces")
    done = client.run("-m", "index.space", "tester/demo", ID)
    assert done.returncode == 0, done.stderr
    space = hub.repo("tester/demo", "spaces")
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(space.head().files) == set(listed.stdout.split("\n")) - {""}
    assert hub.read("tester/demo", "app.py", "spaces") == (ROOT / "app.py").read_bytes()
    assert space.variables == {"INDEX": ID, "INDEX_REVISION": revision}
    hub.log.clear()
    assert "Nothing has changed" in client.run("-m", "index.space", "tester/demo", ID).stdout
    assert not [line for line in hub.log if line.startswith("POST") and re.search("commit|variables", line)]


@pytest.mark.parametrize(
    ("index", "environment", "words"),
    [
        ("tester/none", {}, "There is no tester/none here or on the Hub"),
        ("tester/plain", {}, "tester/plain is not an index"),
        (ID, {"HF_TOKEN": "hf_read"}, "Your token for the Hub may only read"),
        (ID, {"HF_ENDPOINT": f"http://127.0.0.1:{FREE_PORT}"}, "cannot be reached: check the network"),
    ],
    ids=["no index", "other dataset", "read-only", "no network"],
)
def test_space_that_cannot_be_published_is_one_sentence(
    client: Client, hub: HubServer, index: str, environment: dict, words: str
) -> None:
    hub.put(ID, {"manifest.json": b"{}"})
    hub.put("tester/plain", {"README.md": b"no index"})
    done = client.run("-m", "index.space", "tester/demo", index, **environment)
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)
    assert words in done.stderr
    assert ("spaces", "tester/demo") not in hub.hub.repos
