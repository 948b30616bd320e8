"""On ZeroGPU the model runs in a copy of the process, which finds it without it being pickled."""

import os
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

# What Hugging Face's `spaces` does to a decorated function, as far as it can be done without its hardware:
# arguments and result are pickled, the call runs in a forked copy of the process.
SPACES = """
import multiprocessing, pickle

def GPU(function):
    def run(data, pipe):
        pipe.send_bytes(pickle.dumps((function(*pickle.loads(data)), __import__("os").getpid())))

    def call(*arguments):
        context = multiprocessing.get_context("fork")
        here, there = context.Pipe()
        copy = context.Process(target=run, args=(pickle.dumps(arguments), there))
        copy.start()
        result, GPU.pid = pickle.loads(here.recv_bytes())
        copy.join()
        return result

    return call
"""

PROGRAM = """
import os, sys
from pathlib import Path
import numpy as np
from index.live import load_agreeing
from index.store import load_index
from index.query import item_image
assert "torch" not in sys.modules
import spaces

sample = load_index(Path("assets/sample"))
encoder = load_agreeing(sample)
assert spaces.GPU.pid != os.getpid()
again = encoder.encode([item_image(sample, item) for item in (5, 6)])
print(float((again * sample.embeddings[[5, 6]]).sum(1).min()), encoder.dimension)
"""


def test_borrowed_model_gives_the_same_embeddings(tmp_path: Path) -> None:
    (tmp_path / "spaces.py").write_text(SPACES)
    # one thread: a copy of a process that has used OpenMP's others would wait for them
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    cosine, dimension = done.stdout.split()
    assert float(cosine) > 0.999
    assert int(dimension) == 192
