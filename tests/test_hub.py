"""What is published is there whole or not at all, and what was fetched once opens without the Hub."""

# ruff: noqa: F811  (fixtures come in by import)

import json
import signal
from pathlib import Path

import pytest

from index import store
from index.hub import fetch_snapshot
from index.manifest import FormatError
from index.store import Index, load_index, save_index
from tests.conftest import MODEL
from tests.hub_fixtures import FREE_PORT, Client, client, hub  # noqa: F401
from tests.hub_server import Fault, HubServer
from tests.test_store import lists, small

ID = "tester/digits"
CARD = b"---\nlicense: mit\n---\n# Digits\n"

# Publishes the index in a folder, without the checks that `python -m index publish` runs before
PUBLISH = """
import sys
from pathlib import Path
from index.hub import HubError
from index.publish import Publication, index_target, publish
from index.store import load_manifest

folder, repo, tag, private = Path(sys.argv[1]), sys.argv[2], sys.argv[3] or None, sys.argv[4] == "private"
names = ["README.md", "manifest.json", *load_manifest(folder).files]
files = {name: folder / name for name in names}
try:
    done = publish(Publication(index_target(repo), files, "Publish", private, tag))
except HubError as error:
    sys.exit(str(error))
print(done.revision, done.changed)
"""

FETCH = """
import json, sys
from index.hub import HubError, fetch_snapshot
from index.manifest import FormatError
from index.store import load_index

try:
    found = fetch_snapshot(sys.argv[1], sys.argv[2] or None)
    count = load_index(found.folder).manifest.count
except FormatError as error:
    sys.exit(f"{error} temporary={getattr(error, 'temporary', None)}")
print(json.dumps([str(found.folder), found.revision, found.from_cache, found.reason, count]))
"""


def save(sample: Index, folder: Path, n: int = 60, shard_bytes: int = 20_000) -> Path:
    """A small index of several shards in a new folder."""
    before, store.SHARD_BYTES = store.SHARD_BYTES, shard_bytes
    try:
        save_index(small(sample, n), lists(n), folder)
    finally:
        store.SHARD_BYTES = before
    (folder / "README.md").write_bytes(CARD)
    return folder


@pytest.fixture
def saved(sample: Index, tmp_path: Path) -> Path:
    return save(sample, tmp_path / "index")


def publish(client: Client, folder: Path, repo: str = ID, tag: str = "", private: str = "", **environment):
    return client.run("-c", PUBLISH, str(folder), repo, tag, private, **environment)


def published(client: Client, folder: Path, tag: str = "") -> str:
    """Publishes and returns the revision."""
    done = publish(client, folder, tag=tag)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[-2]


def fetch(client: Client, location: str = ID, revision: str = "", **environment) -> list:
    done = client.run("-c", FETCH, location, revision, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def refused(client: Client, location: str = ID, revision: str = "", **environment) -> str:
    """The one sentence that says why an index cannot be had."""
    done = client.run("-c", FETCH, location, revision, **environment)
    assert done.returncode == 1
    return done.stderr.strip().splitlines()[-1]


def count(hub: HubServer, words: str) -> int:
    return sum(words in line for line in hub.log)


def names(hub: HubServer) -> set[str]:
    return set(hub.repo(ID).head().files)


def names_of(folder: Path) -> set[str]:
    return {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}


# ---- The model

MODEL_ID = "tester/dinov2"

FETCH_MODEL = """
import sys
from embedding.encoder import ModelError, fetch_model

try:
    reference, folder = fetch_model(sys.argv[1], sys.argv[2] or None)
except ModelError as error:
    sys.exit(str(error))
print(reference.revision, folder)
"""


@pytest.fixture
def model(hub: HubServer) -> str:
    """A model on the Hub; its commit."""
    files = {file.name: file.read_bytes() for file in MODEL.iterdir() if file.is_file()}
    return hub.put(MODEL_ID, files, kind="models")


def model_folder(client: Client, revision: str = "", model: str = MODEL_ID) -> tuple[str, Path]:
    done = client.run("-c", FETCH_MODEL, model, revision)
    assert done.returncode == 0, done.stderr
    commit, folder = done.stdout.split()
    return commit, Path(folder)


def no_model(client: Client, revision: str = "", model: str = MODEL_ID) -> str:
    done = client.run("-c", FETCH_MODEL, model, revision)
    assert done.returncode == 1
    return done.stderr.strip()


def test_pinned_model_is_downloaded_once(client: Client, hub: HubServer, model: str) -> None:
    hub.put(MODEL_ID, {"config.json": b"{}"}, kind="models")  # newer, and not asked for
    commit, folder = model_folder(client, model)
    assert commit == model
    assert names_of(folder) == names_of(MODEL) - {"README.md"}
    hub.log.clear()
    assert model_folder(client, model) == (commit, folder)
    assert hub.log == []


@pytest.mark.parametrize(
    "fault", [{"status": 503}, pytest.param({"hang": True}, marks=pytest.mark.slow)], ids=["503", "hangs"]
)
def test_model_that_is_not_here_is_had_once_the_hub_is_well(
    client: Client, hub: HubServer, model: str, fault: dict
) -> None:
    hub.order(Fault(".", times=1000, **fault))
    assert no_model(client) == (
        "The model tester/dinov2 is not in the cache and the Hub is out of reach: "
        "check the network, or give a folder."
    )
    hub.forget()
    assert model_folder(client)[0] == model
    hub.order(Fault(".", times=1000, **fault))
    assert model_folder(client)[0] == model  # the newest that was seen


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_damaged_model_is_fetched_again(client: Client, hub: HubServer, model: str, name: str) -> None:
    file = model_folder(client, model)[1] / name
    data = file.read_bytes()
    file.resolve().write_bytes(data[:200] + b"\xff\x00" + data[202:])
    hub.stop()
    words = no_model(client, model)
    hub.start()
    assert words == (
        f"The downloaded {name} of tester/dinov2 is damaged, and the Hub is out of reach: check the network."
    )
    assert model_folder(client, model)[1] == file.parent
    assert file.read_bytes() == data


def test_killed_download_of_a_model_is_completed(client: Client, hub: HubServer, model: str) -> None:
    fault = hub.order(Fault("GET .*model.safetensors", hang=True))
    process = client.start("-c", FETCH_MODEL, MODEL_ID, model)
    assert fault.seen.wait(60)
    process.kill()
    process.communicate()
    hub.forget()
    assert names_of(model_folder(client, model)[1]) == names_of(MODEL) - {"README.md"}


def test_model_that_does_not_exist_is_said(client: Client, hub: HubServer, model: str) -> None:
    assert "The Hub has no model tester/none, or it is private" in no_model(client, model="tester/none")
    assert "The model tester/dinov2 has no revision v9 on the Hub." in no_model(client, "v9")
    assert "The model a b/c is no folder here" in no_model(client, model="a b/c")


# ---- Publishing


def test_index_is_published_in_one_commit_and_tagged(client: Client, hub: HubServer, saved: Path) -> None:
    revision = published(client, saved, tag="v1")
    assert names(hub) == names_of(saved) | {".gitattributes"}
    assert all(hub.read(ID, name) == (saved / name).read_bytes() for name in names_of(saved))
    assert count(hub, "/commit/main") == 1
    assert hub.repo(ID).tags == {"v1": revision}


def test_publishing_again_sends_nothing(client: Client, hub: HubServer, saved: Path) -> None:
    revision = published(client, saved, tag="v1")
    hub.log.clear()
    done = publish(client, saved, tag="v1")
    assert done.stdout.split()[-2:] == [revision, "False"]
    assert not [line for line in hub.log if line.startswith("PUT") or "preupload" in line or "commit" in line]


def test_stale_shards_go_in_the_commit_that_brings_the_new_ones(
    client: Client, hub: HubServer, saved: Path, sample: Index, tmp_path: Path
) -> None:
    first = published(client, saved)
    hub.put(ID, {"LICENSE": b"mine", "data/old.parquet": b"stale"})
    second = published(client, save(sample, tmp_path / "smaller", 30, 10**9))
    assert names(hub) == names_of(tmp_path / "smaller") | {".gitattributes", "LICENSE"}
    assert hub.repo(ID).commits[second].parent != first
    assert count(hub, "/commit/main") == 2
    assert fetch(client, revision=first)[4] == 60  # readers of the old revision keep it
    assert fetch(client)[4] == 30


@pytest.mark.parametrize(("pattern", "skipped"), [("PUT /_lfs", 0), ("PUT /_lfs", 3), ("POST .*/commit/", 0)])
def test_killed_publish_leaves_the_old_index_and_goes_on(
    client: Client, hub: HubServer, saved: Path, sample: Index, tmp_path: Path, pattern: str, skipped: int
) -> None:
    old = published(client, save(sample, tmp_path / "old", 20, 10**9))
    fault = hub.order(Fault(pattern, hang=True, after=100, skip=skipped))
    process = client.start("-c", PUBLISH, str(saved), ID, "", "")
    assert fault.seen.wait(60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert hub.repo(ID).branches["main"] == old
    there = sum(hub.hub.blobs.path(digest).is_file() for digest in load_index(saved).manifest.files.values())
    hub.forget()
    published(client, saved)
    assert names(hub) == names_of(saved) | {".gitattributes"}
    assert count(hub, "PUT /_lfs") == len(load_index(saved).manifest.files) - there
    assert fetch(client)[4] == 60


def test_commit_of_someone_else_in_between_is_kept(client: Client, hub: HubServer, saved: Path) -> None:
    hub.put(ID, {"manifest.json": b"an older index"})
    fault = hub.order(Fault("PUT /_lfs", hang=True))
    process = client.start("-c", PUBLISH, str(saved), ID, "", "")
    assert fault.seen.wait(60)
    hub.put(ID, {"NOTICE": b"while you were uploading"})
    fault.release()
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert "Someone else has just changed tester/digits. Trying again in 1 s." in out
    assert names(hub) == names_of(saved) | {"NOTICE"}


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(Fault("repos/create", status=503, times=2), marks=pytest.mark.slow),
        pytest.param(Fault("POST .*/commit/", status=500, times=2), marks=pytest.mark.slow),
        Fault("PUT /_lfs", status=503, times=2),
        pytest.param(Fault("PUT /_lfs", after=2000, times=2), marks=pytest.mark.slow),
        pytest.param(Fault("POST .*/commit/", after=100), marks=pytest.mark.slow),
        Fault("POST .*/commit/", lost=True),
        pytest.param(Fault("POST .*/tag/", status=502), marks=pytest.mark.slow),
    ],
    ids=["503", "500 at commit", "503 at upload", "upload cut", "commit cut", "answer lost", "502 at tag"],
)
def test_passing_trouble_is_survived(client: Client, hub: HubServer, saved: Path, fault: Fault) -> None:
    hub.order(fault)
    revision = published(client, saved, tag="v1")
    assert fault.times == 0
    assert names(hub) == names_of(saved) | {".gitattributes"}
    assert [commit.title for commit in hub.repo(ID).commits.values()] == ["initial commit", "Publish"]
    assert hub.repo(ID).tags == {"v1": revision}


@pytest.mark.parametrize(
    ("repo", "environment", "words"),
    [
        (ID, {"HF_TOKEN": None}, "You are not logged in to the Hub: run `hf auth login`"),
        (ID, {"HF_TOKEN": "hf_wrong"}, "The Hub does not know your token: run `hf auth login`"),
        (ID, {"HF_TOKEN": "hf_read"}, "Your token for the Hub may only read: run `hf auth login`"),
        ("other/digits", {}, "Your token does not open other/digits: choose a name of your own"),
        ("digits", {}, "digits is neither a folder nor a Hub id"),
        ("a b/c", {}, "a b/c is neither a folder nor a Hub id"),
        (ID, {"HF_ENDPOINT": f"http://127.0.0.1:{FREE_PORT}"}, "cannot be reached: check the network"),
        (ID, {"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set: unset it"),
    ],
    ids=["no token", "unknown", "read-only", "not yours", "no owner", "bad name", "no network", "offline"],
)
def test_what_cannot_be_published_is_one_sentence(
    client: Client, hub: HubServer, saved: Path, repo: str, environment: dict, words: str
) -> None:
    done = publish(client, saved, repo, **environment)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not hub.hub.repos


def test_only_an_index_is_ever_overwritten(client: Client, hub: HubServer, saved: Path) -> None:
    hub.put(ID, {"train.csv": b"someone's work"})
    assert "holds something else on the Hub: choose another name" in publish(client, saved).stderr
    assert names(hub) == {"train.csv"}


def test_public_dataset_is_not_taken_for_a_private_one(client: Client, hub: HubServer, saved: Path) -> None:
    revision = published(client, saved)
    assert "is public already" in publish(client, saved, private="private").stderr
    assert publish(client, saved, "tester/secret", private="private").returncode == 0
    assert hub.repo("tester/secret").private
    assert hub.repo(ID).branches["main"] == revision


def test_tag_is_never_moved(
    client: Client, hub: HubServer, saved: Path, sample: Index, tmp_path: Path
) -> None:
    first = published(client, saved, tag="v1")
    done = publish(client, save(sample, tmp_path / "other", 30), tag="v1")
    assert "The tag v1 of tester/digits is taken by another revision" in done.stderr
    assert hub.repo(ID).branches["main"] == first == hub.repo(ID).tags["v1"]


# ---- Fetching


def test_only_what_an_index_needs_is_downloaded(client: Client, hub: HubServer, saved: Path) -> None:
    revision = published(client, saved)
    hub.put(ID, {"map.png": b"picture", "data/notes.txt": b"notes"})
    folder, found, from_cache, reason, items = fetch(client, revision=revision)
    assert names_of(Path(folder)) == names_of(saved)
    assert (found, from_cache, reason, items) == (revision, False, None, 60)
    assert "map.png" not in "".join(hub.log)


def test_pinned_index_opens_without_asking_the_hub(client: Client, hub: HubServer, saved: Path) -> None:
    revision = published(client, saved)
    fetch(client, revision=revision)
    hub.log.clear()
    assert fetch(client, revision=revision)[1:4] == [revision, True, None]
    assert hub.log == []


@pytest.mark.parametrize("pin", ["", pytest.param("v1", marks=pytest.mark.slow)], ids=["newest", "tag"])
def test_cached_index_opens_while_the_hub_is_gone(
    client: Client, hub: HubServer, saved: Path, pin: str
) -> None:
    revision = published(client, saved, tag="v1")
    fetch(client, revision=pin)
    hub.stop()
    _, found, from_cache, reason, items = fetch(client, revision=pin)
    hub.start()
    assert (found, from_cache, items) == (revision, True, 60)
    assert reason == f"The Hub ({hub.url}) cannot be reached: check the network."
    assert fetch(client, revision=pin)[2] is False


@pytest.mark.parametrize(
    "fault", [{"status": 503}, pytest.param({"hang": True}, marks=pytest.mark.slow)], ids=["503", "hangs"]
)
def test_cached_index_opens_while_the_hub_has_trouble(
    client: Client, hub: HubServer, saved: Path, fault: dict
) -> None:
    published(client, saved)
    fetch(client)
    hub.order(Fault(".", times=1000, **fault))
    _, _, from_cache, reason, _ = fetch(client)
    assert from_cache
    assert "Hub" in reason


def test_index_that_is_not_here_is_had_once_the_hub_is_well(
    client: Client, hub: HubServer, saved: Path
) -> None:
    published(client, saved)
    hub.order(Fault(".", status=503, times=1000))
    assert "it answers 503: try again later. temporary=True" in refused(client)
    hub.forget()
    assert fetch(client)[2:] == [False, None, 60]


@pytest.mark.slow
def test_newest_revision_is_taken_when_the_hub_answers(
    client: Client, hub: HubServer, saved: Path, sample: Index, tmp_path: Path
) -> None:
    published(client, saved)
    fetch(client)
    newer = published(client, save(sample, tmp_path / "newer", 40))
    assert fetch(client)[1] == newer


@pytest.mark.parametrize("damage", ["flip", pytest.param("cut", marks=pytest.mark.slow), "gone", "manifest"])
def test_damaged_download_is_fetched_again(client: Client, hub: HubServer, saved: Path, damage: str) -> None:
    revision = published(client, saved)
    folder = Path(fetch(client, revision=revision)[0])
    shard = sorted((folder / "data").iterdir())[1]
    file = (folder / "manifest.json" if damage == "manifest" else shard).resolve()
    data = file.read_bytes()
    if damage == "gone":
        shard.unlink()
    else:
        file.write_bytes(data[:-3000] if damage != "flip" else data[:900] + b"\xff\x00" + data[902:])
    hub.log.clear()
    assert fetch(client, revision=revision)[4] == 60
    assert file.read_bytes() == data
    assert count(hub, "GET /datasets") == (0 if damage == "gone" else 1)  # only the damaged file


def test_damage_is_said_while_the_hub_is_gone(client: Client, hub: HubServer, saved: Path) -> None:
    revision = published(client, saved)
    shard = sorted((Path(fetch(client, revision=revision)[0]) / "data").iterdir())[1]
    shard.resolve().write_bytes(b"PAR1")
    hub.stop()
    words = refused(client, revision=revision)
    hub.start()
    assert f"The downloaded data/{shard.name} is damaged. The Hub" in words
    assert words.endswith("check the network. temporary=True")
    assert fetch(client, revision=revision)[4] == 60


def test_killed_download_is_completed(client: Client, hub: HubServer, saved: Path) -> None:
    revision = published(client, saved)
    fault = hub.order(Fault("GET .*00001-of", hang=True))
    process = client.start("-c", FETCH, ID, revision)
    assert fault.seen.wait(60)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hub.forget()
    assert fetch(client, revision=revision)[2:] == [False, None, 60]


def test_index_that_cannot_be_had_is_one_sentence(client: Client, hub: HubServer, saved: Path) -> None:
    published(client, saved)
    publish(client, saved, "tester/secret", private="private")
    hub.put("tester/plain", {"data/train.parquet": b"no index"})
    assert "There is no tester/none here or on the Hub, or it is private" in refused(client, "tester/none")
    assert "is private" in refused(client, "tester/secret", HF_TOKEN=None, HF_HOME=str(client.home / "other"))
    assert "has no revision v9" in refused(client, revision="v9")
    assert "tester/plain is not an index" in refused(client, "tester/plain")
    assert "The Hub does not know your token" in refused(client, HF_TOKEN="hf_wrong")
    unreachable = refused(client, HF_ENDPOINT=f"http://127.0.0.1:{FREE_PORT}")
    assert "cannot be reached: check the network. temporary=True" in unreachable
    assert count(hub, "GET /datasets") == 0


def test_manifest_that_names_files_outside_the_index_is_refused(
    client: Client, hub: HubServer, saved: Path, tmp_path: Path
) -> None:
    published(client, saved)
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["files"]["../../../../../../../precious"] = "0" * 64
    hub.put(ID, {"manifest.json": json.dumps(manifest).encode()})
    assert "names ../../../../../../../precious, expected data/*.parquet only" in refused(client)


def test_folder_is_taken_as_it_is(saved: Path) -> None:
    assert fetch_snapshot(str(saved)).folder == saved


@pytest.mark.parametrize("location", ["no such folder", "nothing", "a/b/c"])
def test_neither_folder_nor_id_is_said(location: str) -> None:
    with pytest.raises(FormatError, match=f"{location} is neither a folder nor a Hub id"):
        fetch_snapshot(location)
