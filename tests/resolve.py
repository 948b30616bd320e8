"""Do the ranges of requirements.txt resolve on a Space: Python 3.12, torch 2.8 to 2.13, beside `spaces`.

python3.12 -m tests.resolve [TORCH ...]

Asks the resolver of pip, a recent one: older ones download all wheels first. It installs nothing, needs a
package index, and takes about a minute for every torch. The Python that runs it is the one asked about.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = ("2.8", "2.9", "2.10", "2.11", "2.12", "2.13")
SHOWN = ("torch", "gradio", "spaces", "transformers", "datasets", "huggingface_hub", "numpy", "pyarrow")


def main(minors: list[str]) -> int:
    """Prints a row for every minor version of torch; the exit status 1 if one does not resolve."""
    print(f"Python {sys.version.split()[0]}: requirements.txt, and what a Space of Gradio's adds to it")
    failed = False
    for minor in minors or TORCH:
        found = resolve(f"torch=={minor}.*")
        failed |= isinstance(found, str)
        shown = found if isinstance(found, str) else ", ".join(f"{name} {found[name]}" for name in SHOWN)
        print(f"  torch {minor}: {shown}", flush=True)
    return int(failed)


def resolve(torch: str) -> dict[str, str] | str:
    """The version of every package that pip would install, or why it finds none that fit."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--dry-run",
        "--ignore-installed",
        "--report",
        "-",
    ]
    wanted = ["--only-binary=:all:", "-r", str(ROOT / "requirements.txt"), torch, *added_by_space()]
    done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        return "does NOT resolve. " + " ".join(errors)[:500]
    packages = [each["metadata"] for each in json.loads(done.stdout)["install"]]
    return {package["name"].lower().replace("-", "_"): package["version"] for package in packages}


def added_by_space() -> list[str]:
    """What the Hub installs beside requirements.txt: the Gradio that the front matter names, and `spaces`."""
    version = re.search(r"^sdk_version: (\S+)$", (ROOT / "README.md").read_text(encoding="utf-8"), re.M)[1]
    return [f"gradio[oauth,mcp]=={version}", "uvicorn>=0.14.0", "websockets>=10.4", "spaces"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
