"""The import order of the design: each module may import only what lies before it."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
LAYERS = [
    {"embedding", "embedding.ahead", "embedding.fetch", "embedding.ground", "embedding.models"},
    {"embedding.levels", "embedding.precision"},
    {"embedding.vit"},
    {"embedding.forward"},
    {"embedding.image", "embedding.encoder"},
    {"embedding.batcher", "embedding.parts", "embedding.zero_gpu"},
    {"embedding.cluster", "embedding.workers"},
    {"embedding.engines"},
    {"index.manifest"},
    {"index.store"},
    {"index.figures", "index.pixels", "index.search", "index.projection", "index.source", "index.hub"},
    {
        "index.approximate",
        "index.calibration",
        "index.card",
        "index.compare",
        "index.hygiene",
        "index.qdrant",
        "index.quality",
    },
    {"index.query", "index.publish", "index.work"},
    {"index.cells", "index.layouts"},
    {"index.live"},
    {"index.searching"},
    {"index.standby"},
    {"index.build", "index.check", "index.space"},
    {"index.evaluate"},
    {"index.__main__"},
]
UI_SEES = {
    "embedding.image",
    "index.calibration",
    "index.compare",
    "index.figures",
    "index.hygiene",
    "index.live",
    "index.manifest",
    "index.projection",
    "index.query",
    "index.search",
    "index.standby",
    "index.store",
}
APP_SEES = {
    "embedding.image",
    "index.compare",
    "index.live",
    "index.manifest",
    "index.query",
    "index.searching",
    "index.standby",
    "index.store",
}
SLOW = {"torch", "transformers", "datasets", "umap", "sklearn", "numba", "scipy", "ray"}


def imports_of(module: str) -> set[str]:
    """The project's own modules that `module` imports, anywhere in its file."""
    tree = ast.parse((ROOT / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in {"embedding", "index", "ui", "app"}}


def modules_of(package: str) -> list[str]:
    return [
        f"{package}.{file.stem}" for file in sorted((ROOT / package).glob("*.py")) if file.stem != "__init__"
    ]


@pytest.mark.parametrize("module", modules_of("embedding") + modules_of("index"))
def test_module_imports_only_what_lies_before_it(module: str) -> None:
    layer = next(number for number, names in enumerate(LAYERS) if module in names)
    allowed = set().union(*LAYERS[:layer])
    assert imports_of(module) <= allowed


@pytest.mark.parametrize("module", modules_of("ui"))
def test_ui_imports_only_types_of_the_index(module: str) -> None:
    assert {name for name in imports_of(module) if not name.startswith("ui.")} <= UI_SEES


@pytest.mark.parametrize("module", modules_of("training"))
def test_training_stands_alone(module: str) -> None:
    assert (
        imports_of(module) == set()
    )  # it runs on a GPU machine that has torch, transformers and scikit-learn


def test_app_imports_only_ui_and_what_answers_queries() -> None:
    assert {name for name in imports_of("app") if not name.startswith("ui.")} <= APP_SEES


def test_importing_app_loads_nothing_slow() -> None:
    program = f"import app, sys; print(*sorted({SLOW!r} & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []
