"""What the Python call costs beside the engine, and the memory of a process: `python benches/overhead.py [PROGRAM]`.

For scenes of the demo as arrays: wall time of `engine(image)` against the engine's own time in it (network and maps), call
by call. Then the peak memory of a process that maps one picture of 12 megapixels, given as a path and as an array; with PROGRAM,
that of `ddu infer` on it too.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

import ddu

CALLS = 60

PEAK = """
import sys
import numpy as np
from PIL import Image
import ddu
engine = ddu.load(ddu.demo_model())
image = sys.argv[1] if sys.argv[2] == "path" else np.asarray(Image.open(sys.argv[1]))
maps = engine(image)
assert maps.shape == (3000, 4000)
"""


def peak(*arguments):
    """MiB that a process took at most."""
    process = subprocess.Popen([str(argument) for argument in arguments])
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        raise SystemExit(f"{arguments[0]} failed")
    return usage.ru_maxrss // 1024


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        ddu.scenes(folder, count=10)
        images = [np.asarray(Image.open(path)) for path in sorted((folder / "JPEGImages").glob("train*"))]
        density = ddu.fit(ddu.load(ddu.demo_model()), folder, split="train")
        engine = ddu.load(ddu.demo_model(), density)
        rows = []
        for call in range(CALLS + 5):
            image = images[call % len(images)]
            start = time.perf_counter()
            maps = engine(image)
            wall = time.perf_counter() - start
            rows.append((wall, maps.network_s, maps.maps_s))
        rows = np.array(rows[5:])
        beside = rows[:, 0] - rows[:, 1] - rows[:, 2]
        network = np.median(rows[:, 1])
        print(
            f"{images[0].shape}, {ddu.threads()} threads, medians of {CALLS} calls: network {1e3 * network:.2f} ms, maps "
            f"{1e3 * np.median(rows[:, 2]):.2f} ms, Python beside them {1e3 * np.median(beside):.3f} ms: "
            f"{100 * np.median(beside) / network:.2f} % of the network stage"
        )
        large = folder / "large.png"
        Image.fromarray(np.tile(images[0], (16, 14, 1))[:3000, :4000]).save(large)
        for way in ("path", "array"):
            print(f"peak memory with a {way}: {peak(sys.executable, '-c', PEAK, large, way)} MiB")
        if len(sys.argv) > 1:
            model = Path(__file__).parents[2] / "assets" / "demo.safetensors"
            infer = peak(sys.argv[1], "infer", "-q", "--model", model, large, "-o", folder / "maps")
            print(f"peak memory of ddu infer: {infer} MiB")


if __name__ == "__main__":
    main()
