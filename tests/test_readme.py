"""The README is true: its snippets run, its commands, options and files exist."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from embedding.fetch import MODEL_FILES
from index.__main__ import DEFAULT_MODEL
from tests.conftest import MODEL, ROOT
from tests.server import running_app

README = (ROOT / "README.md").read_text(encoding="utf-8")
ADDRESS = "http://127.0.0.1:7860/"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with running_app(log=tmp_path_factory.mktemp("app") / "log") as url:
        yield url


def here(snippet: str, address: str) -> str:
    return snippet.replace(ADDRESS, address).replace(ADDRESS.rstrip("/"), address.rstrip("/"))


def test_python_snippet_finds_the_seven(address: str) -> None:
    (snippet,) = [block for block in blocks("python") if "gradio_client" in block]
    command = [sys.executable, "-c", here(snippet, address)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "'label': '7'" in done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_snippet_gets_an_answer(address: str) -> None:
    (snippet,) = [block for block in blocks("bash") if "curl" in block]
    ask, fetch = here(snippet, address).replace("\\\n", "").strip().splitlines()
    asked = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True)
    event = json.loads(asked.stdout)["event_id"]
    fetched = subprocess.run(
        ["bash", "-c", fetch.replace("EVENT_ID", event)], capture_output=True, text=True, check=True
    )
    assert fetched.stdout.startswith("event: complete")
    assert '"label": "7"' in fetched.stdout


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make ([\w-]+)|`make ([\w-]+)", README, re.M)):
        name = target[0] or target[1]
        assert re.search(rf"^{name}:", makefile, re.M), name


@pytest.mark.parametrize("command", ["build", "check"])
def test_options_of_the_command_line_exist(command: str) -> None:
    arguments = [sys.executable, "-m", "index", command, "--help"]
    shown = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    named = set(re.findall(r"`(--[\w-]+)", README[README.index("Options:") : README.index("A build can be")]))
    if command == "build":
        assert named
        assert all(option in shown for option in named)


def test_files_and_links_exist() -> None:
    links = re.findall(r"\]\(([\w./-]+)\)", README)
    table = README[README.index("| file | what it does |") : README.index("## Figures")]
    for name in links + re.findall(r"`([\w./]+[/.][\w]*)`", table):
        assert any(ROOT.rglob(name)) if "/" not in name else (ROOT / name).exists(), name


def test_every_module_is_in_the_table() -> None:
    for file in [*ROOT.glob("embedding/*.py"), *ROOT.glob("index/*.py")]:
        if not file.name.startswith("__"):
            assert f"`{file.relative_to(ROOT).as_posix()}`" in README


# What the Hub knows of a Space's front matter, as far as Gradio Spaces use it: the configuration reference
FRONT_MATTER = {
    "title": str,
    "emoji": str,
    "colorFrom": str,
    "colorTo": str,
    "sdk": str,
    "sdk_version": str,
    "python_version": str,
    "app_file": str,
    "pinned": bool,
    "license": str,
    "short_description": str,
    "thumbnail": str,
    "header": str,
    "models": list,
    "datasets": list,
    "tags": list,
    "suggested_hardware": str,
    "preload_from_hub": list,
    "fullWidth": bool,
    "disable_embedding": bool,
    "startup_duration_timeout": str,
}
COLORS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
HARDWARE = {
    "cpu-basic",
    "cpu-upgrade",
    "zero-a10g",
    "t4-small",
    "t4-medium",
    "l4x1",
    "a10g-small",
    "a100-large",
}


def test_front_matter_is_a_spaces() -> None:
    front = yaml.safe_load(README.split("---")[1])
    for key, value in front.items():
        assert isinstance(value, FRONT_MATTER[key]), key
    assert {front["colorFrom"], front["colorTo"]} <= COLORS
    assert front["suggested_hardware"] in HARDWARE
    assert re.fullmatch(r"\d+\.\d+", front["python_version"])
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+", name) for name in front["models"] + front["datasets"])
    assert front["sdk"] == "gradio"
    assert f"gradio=={front['sdk_version']}" in (ROOT / "constraints.txt").read_text()
    assert (ROOT / front["app_file"]).is_file()
    assert front["license"] == "apache-2.0"
    assert len(front["short_description"]) <= 60


def test_preloaded_files_are_those_that_the_default_model_needs() -> None:
    """As `repository file,file,...`; what is left out would be downloaded when the Space starts."""
    (line,) = yaml.safe_load(README.split("---")[1])["preload_from_hub"]
    repository, files = line.split(" ")
    assert repository == DEFAULT_MODEL
    assert set(files.split(",")) == {file.name for file in MODEL.iterdir()} - {"README.md"}
    assert all(any(fnmatch(file, pattern) for pattern in MODEL_FILES) for file in files.split(","))


def test_no_committed_file_is_too_large_for_a_space() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout
    for name in filter(None, listed.split("\0")):
        assert not (ROOT / name).exists() or (ROOT / name).stat().st_size < 10_000_000, name


def test_figures_are_those_of_the_cards() -> None:
    metrics = json.loads((ROOT / "assets/sample/manifest.json").read_text())["metrics"]
    card = Path(ROOT / "assets/model/README.md").read_text(encoding="utf-8")
    assert f"{100 * metrics['knn_accuracy']:.1f} %" in card
    assert f"{100 * metrics['pixel_knn_accuracy']:.1f} %" in card
