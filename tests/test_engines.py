"""Wherever images are embedded, the same bytes come out; dead workers are missed, and none is left over."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from numpy.typing import NDArray

from embedding.cluster import Cluster, assembled, planned, ray_cluster
from embedding.parts import Embed, EmbeddedPart, EngineError, Part, Recipe, embed_here
from embedding.workers import embed_with_workers, worker_places
from index.build import BuildRequest, build_index
from index.source import SourceRequest
from index.store import Index
from tests.conftest import MODEL, ROOT

BATCH = 16
PATIENCE = 120  # seconds that a process may take to end, on a machine that others keep busy
QUIET = {**os.environ, "TQDM_DISABLE": "1"}
RECIPE = Recipe(MODEL, "cls", "auto", BATCH)


@pytest.fixture(scope="module")
def parts(sample: Index) -> list[Part]:
    """Six parts of two batches, and one of less than a batch."""
    files = sample.images[:200]
    return [Part(start, files[start : start + 2 * BATCH]) for start in range(0, 200, 2 * BATCH)]


@pytest.fixture(scope="module")
def due(parts: list[Part]) -> NDArray[np.float32]:
    return rows_of(partial(embed_here, partial(RECIPE.load, "cpu"), BATCH), parts)


@pytest.fixture(scope="module")
def broken(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A model whose weights were cut off."""
    folder = tmp_path_factory.mktemp("broken")
    for file in MODEL.iterdir():
        data = file.read_bytes()
        (folder / file.name).write_bytes(data[:1000] if file.suffix == ".safetensors" else data)
    return Recipe(folder, "cls", "auto", BATCH)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    pytest.importorskip("ray")
    with ray_cluster(None, 2, "auto") as started:
        yield started


def rows_of(
    embed: Embed, parts: list[Part], count: Callable[[int], object] = lambda images: None
) -> NDArray[np.float32]:
    """The embeddings of all parts in order; `count` must have been told of every image."""
    counted: list[int] = []

    def told(images: int) -> None:
        counted.append(images)
        count(images)

    made: dict[int, EmbeddedPart] = {part.start: part for part in embed(parts, told)}
    assert sum(counted) >= sum(len(part.files) for part in parts)
    return np.concatenate([made[part.start].rows for part in parts])


def local(recipe: Recipe) -> Embed:
    return partial(embed_with_workers, worker_places(2, "cpu"), recipe)


# ---- Processes of this machine


def test_two_workers_give_the_bytes_of_one(parts: list[Part], due: NDArray[np.float32]) -> None:
    assert rows_of(local(RECIPE), parts).tobytes() == due.tobytes()
    assert active_children() == []


def test_dead_worker_is_one_sentence(parts: list[Part]) -> None:
    def kill(images: int) -> None:
        active_children()[0].kill()

    with pytest.raises(EngineError, match=r"A worker was killed by signal 9, .* goes on from here"):
        rows_of(local(RECIPE), parts, kill)
    assert active_children() == []


def test_broken_model_in_a_worker_is_one_sentence(parts: list[Part], broken: Recipe) -> None:
    with pytest.raises(EngineError, match=re.escape(f"The model in {broken.folder} cannot be loaded")):
        rows_of(local(broken), parts)
    assert active_children() == []


def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("embedding.workers.cores", lambda: 8)
    assert [place.environment for place in worker_places(3, "cpu")] == [{"OMP_NUM_THREADS": "2"}] * 3


def test_workers_want_a_card_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)  # there is none here
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,GPU-8932f937")
    given = [place.environment for place in worker_places(2, "cuda")]
    assert given == [{"CUDA_VISIBLE_DEVICES": "4"}, {"CUDA_VISIBLE_DEVICES": "GPU-8932f937"}]
    with pytest.raises(EngineError, match="3 workers need a graphics card each, 2 are here"):
        worker_places(3, "cuda")
    with pytest.raises(EngineError, match="2 workers need a graphics card each, cuda:1 is one"):
        worker_places(2, "cuda:1")


# ---- Plans for clusters that are not here


@pytest.mark.parametrize(
    ("machines", "workers", "device", "due"),
    [
        ([{"CPU": 2.0}], 2, "auto", Cluster("cpu", 2, threads=1, reserved=0.5)),
        ([{"CPU": 64.0}], None, "auto", Cluster("cpu", 16, threads=4, reserved=2.0)),
        ([{"CPU": 32.0, "GPU": 8.0}], None, "auto", Cluster("cuda", 8, threads=4, reserved=2.0)),
        ([{"CPU": 32.0, "GPU": 8.0}], 2, "cuda", Cluster("cuda", 2, threads=16, reserved=8.0)),
        ([{"CPU": 8.0, "GPU": 2.0}], None, "cpu", Cluster("cpu", 2, threads=4, reserved=2.0)),
        ([{"CPU": 4.0}] * 8, 2, "auto", Cluster("cpu", 2, threads=4, reserved=2.0)),
        ([{"CPU": 64.0}, *[{"CPU": 4.0, "GPU": 1.0}] * 2], None, "auto", Cluster("cuda", 2, 4, 2.0)),
    ],
)
def test_cards_are_taken_where_there_are_any(
    machines: list[dict[str, float]], workers: int | None, device: str, due: Cluster
) -> None:
    assert planned(machines, workers, device) == due


@pytest.mark.parametrize(
    ("workers", "device", "words"),
    [(None, "mps", "no device mps"), (3, "auto", "2 graphics cards"), (None, "cuda:1", "no device cuda:1")],
)
def test_what_a_cluster_lacks_is_one_sentence(workers: int | None, device: str, words: str) -> None:
    with pytest.raises(EngineError, match=words):
        planned([{"CPU": 8.0, "GPU": 2.0}], workers, device)


def test_parts_come_whole_whatever_the_order_of_their_batches() -> None:
    parts = [Part(0, [b""] * 5), Part(5, [b""] * 3)]
    batches = [EmbeddedPart(at, np.full((n, 1), at, np.float32), "float32") for at, n in ((4, 1), (5, 2))]
    batches += [
        EmbeddedPart(at, np.full((n, 1), at, np.float32), "float32") for at, n in ((7, 1), (0, 2), (2, 2))
    ]
    made = [(part.start, part.rows.ravel().tolist()) for part in assembled(iter(batches), parts, 2)]
    assert made == [(5, [5, 5, 7]), (0, [0, 0, 2, 2, 4])]


def test_batches_of_two_precisions_are_refused() -> None:
    batches = [
        EmbeddedPart(at, np.ones((1, 4), np.float32), to) for at, to in ((0, "float32"), (1, "bfloat16"))
    ]
    with pytest.raises(EngineError, match="different precisions: name a --precision"):
        list(assembled(iter(batches), [Part(0, [b"", b""])], 1))


# ---- A Ray cluster of this machine


@pytest.mark.slow
def test_cluster_gives_the_bytes_of_one_process(
    cluster: Cluster, parts: list[Part], due: NDArray[np.float32]
) -> None:
    assert rows_of(partial(cluster.embed, RECIPE), parts).tobytes() == due.tobytes()


@pytest.mark.slow
def test_killed_actor_is_started_again(cluster: Cluster, parts: list[Part], due: NDArray[np.float32]) -> None:
    killed: list[int] = []

    def kill_one() -> None:
        until(actors)
        killed.append(actors()[0])
        os.kill(killed[0], signal.SIGKILL)

    killer = Thread(target=kill_one)
    killer.start()
    assert rows_of(partial(cluster.embed, RECIPE), parts).tobytes() == due.tobytes()
    killer.join()
    assert killed


@pytest.mark.slow
def test_broken_model_on_a_cluster_is_one_sentence(
    cluster: Cluster, parts: list[Part], broken: Recipe, capfd: pytest.CaptureFixture
) -> None:
    with pytest.raises(EngineError, match=re.escape(f"The model in {broken.folder} cannot be loaded")):
        rows_of(partial(cluster.embed, broken), parts)
    assert capfd.readouterr() == ("", "")


def actors() -> list[int]:
    """The processes of the actors on the cluster that this process started."""
    mine = [pid for pid, parent, args in processes() if parent == os.getpid() and "/raylet " in args]
    return [pid for pid, parent, args in processes() if parent in mine and args.startswith("ray::MapWorker")]


def processes(parent: str = "ppid") -> list[tuple[int, int, str]]:
    """The number, the parent's (or session's, for "sid") and the command line of everything that runs."""
    listed = ["ps", "-e", "-ww", "-o", f"pid=,{parent}=,stat=,args="]
    table = subprocess.run(listed, capture_output=True, text=True, check=True).stdout
    rows = [line.split(maxsplit=3) for line in table.splitlines()]
    return [(int(pid), int(parent), args) for pid, parent, state, args in rows if not state.startswith("Z")]


# ---- The command


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "index", "build", *map(str, arguments)]


def run(*arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(*arguments), cwd=ROOT, env=QUIET, capture_output=True, text=True, check=False
    )


def parts_in(work: Path) -> dict[str, int]:
    """The finished parts and when they were written."""
    return {file.name: file.stat().st_mtime_ns for file in (work / "embeddings").glob("*.npy")}


def until(reached: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end
        time.sleep(0.02)


def session(leader: int) -> list[str]:
    """What runs in the session that this process began, but two watchmen of Ray's: those look up seldom."""
    return [args for _, sid, args in processes("sid") if sid == leader and not args.endswith("Agent")]


def bytes_of(index: Path) -> dict[str, bytes]:
    return {str(file.relative_to(index)): file.read_bytes() for file in index.rglob("*") if file.is_file()}


@pytest.fixture(scope="module")
def source(sample: Index, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,700 digits: four parts of a build."""
    folder = tmp_path_factory.mktemp("set")
    for item in range(1700):
        (folder / f"{item:04d}.png").write_bytes(sample.images[item])
    return folder


@pytest.fixture(scope="module")
def plain(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("plain") / "index"
    build_index(BuildRequest(SourceRequest(str(source), limit=0), model=str(MODEL)), out, lambda line: None)
    return bytes_of(out)


@pytest.fixture
def begun() -> Iterator[list[subprocess.Popen]]:
    """Commands that a test began; what still runs at its end does not outlive it."""
    processes: list[subprocess.Popen] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "sent"), [("local", signal.SIGINT), ("ray", signal.SIGKILL)])
def test_build_cut_off_goes_on_to_the_bytes_of_a_plain_one(
    source: Path, plain: dict[str, bytes], tmp_path: Path, begun: list, engine: str, sent: signal.Signals
) -> None:
    if engine == "ray":
        pytest.importorskip("ray")
    build = (
        source,
        "--model",
        MODEL,
        "--limit",
        0,
        "--engine",
        engine,
        "--workers",
        2,
        "--out",
        tmp_path / "out",
    )
    work = tmp_path / "out.partial"
    first = subprocess.Popen(
        command(*build), cwd=ROOT, env=QUIET, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    begun.append(first)
    until(lambda: first.poll() is not None or parts_in(work))
    (os.killpg if sent == signal.SIGINT else os.kill)(
        first.pid, sent
    )  # a terminal's Ctrl-C goes to all of them
    said = first.communicate(timeout=PATIENCE)[1]
    assert first.returncode == (130 if sent == signal.SIGINT else -sent)
    assert said == ("Interrupted. The same command goes on from here.\n" if sent == signal.SIGINT else "")
    until(lambda: not session(first.pid))
    finished = parts_in(work)
    assert 1 <= len(finished) < 4

    second = subprocess.Popen(command(*build), cwd=ROOT, env=QUIET, stdout=subprocess.PIPE, text=True)
    begun.append(second)
    until(lambda: second.poll() is not None or len(parts_in(work)) > len(finished))
    kept = parts_in(work)
    assert "Going on: " in second.communicate(timeout=PATIENCE)[0]
    assert finished.items() <= kept.items()
    assert second.returncode == 0
    assert bytes_of(tmp_path / "out") == plain


def test_missing_ray_is_one_sentence(source: Path, tmp_path: Path) -> None:
    program = "import sys; sys.modules['ray'] = None; from index.__main__ import main; sys.exit(main())"
    arguments = ["build", source, "--model", MODEL, "--engine", "ray", "--out", tmp_path / "out"]
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "--engine ray needs Ray, which is not installed: pip install -r requirements-ray.txt\n"
    )
    assert not list(tmp_path.iterdir())


def test_cluster_out_of_reach_is_one_sentence(source: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    arguments = ("--model", MODEL, "--engine", "ray", "--address", "127.0.0.1:1", "--out", tmp_path / "out")
    done = run(source, *arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("There is no Ray cluster to be had at 127.0.0.1:1")
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_address_of_no_cluster_is_a_wrong_argument(source: Path, tmp_path: Path) -> None:
    done = run(source, "--model", MODEL, "--address", "auto", "--out", tmp_path / "out")
    assert (done.returncode, done.stderr) == (2, "--address is a Ray cluster's: add --engine ray.\n")
