"""Many tiny images through Ray: cost of each, and peak memory: `python benches/ray_scale.py draw|fit|maps FOLDER [IMAGES]`.

draw: IMAGES (100 000) pairs of files of 16 x 16 pixels in FOLDER. fit: fits them with two workers. maps: maps as many images
that are drawn as they are needed. Memory is the largest of what the driver, and each worker, was seen to have resident, every
half second; a tenth of the images goes first, so that a memory that grows with them shows.
"""

import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
import ray
from PIL import Image

import ddu
import ddu.ray

SIDE = 16


class Watch:
    """Peak resident memory of this process and of Ray's workers with an engine."""

    def __enter__(self):
        self.driver = self.worker = 0
        self._on = True
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        self.start = time.perf_counter()
        return self

    def __exit__(self, *_):
        self.seconds = time.perf_counter() - self.start
        self._on = False
        self._thread.join()

    def _look(self):
        while self._on:
            self.driver = max(self.driver, resident(os.getpid()))
            for pid in filter(str.isdigit, os.listdir("/proc")):
                if "MapWorker" in title(pid):
                    self.worker = max(self.worker, resident(pid))
            time.sleep(0.5)

    def __str__(self):
        return f"{self.seconds:.1f} s, driver at most {self.driver} MiB, a worker at most {self.worker} MiB"


def title(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def resident(pid):
    """MiB of memory of its own; what it shares is the object store."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()
    except OSError:
        return 0
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE") >> 20


def draw(index):
    random = np.random.default_rng(index)
    corner = random.integers(0, 256, (2, 2, 3))
    return np.kron(corner, np.ones((SIDE // 2, SIDE // 2, 1))).astype(np.uint8) ^ random.integers(0, 8, (SIDE, SIDE, 3), np.uint8)


def drawn(batch):
    return {"id": batch["id"], "image": np.stack([draw(index) for index in batch["id"]])}


def files(folder, count):
    """Pairs of the folder, drawn where they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = [(folder / f"{index}.ppm.png", folder / f"{index}.mask.png") for index in range(count)]
    for index, (image, mask) in enumerate(pairs):
        if not mask.exists():
            Image.fromarray(draw(index)).save(image, compress_level=0)
            Image.fromarray((np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 9).astype(np.uint8)).save(mask, compress_level=0)
    return pairs


def fits(pairs):
    for part in (len(pairs) // 10, len(pairs)):
        with Watch() as watch:
            density = ddu.ray.fit(pairs[:part], ddu.demo_model(), shard=1000, workers=2)
        print(f"fit of {density.images} images: {watch}, {1e3 * watch.seconds / part:.2f} ms an image", flush=True)


def maps(pairs):
    density = ddu.fit(ddu.load(ddu.demo_model()), pairs[:1000])
    for part in (len(pairs) // 10, len(pairs)):
        with Watch() as watch:
            rows = ray.data.range(part).map_batches(drawn, batch_size=256)
            found = ddu.ray.infer(rows, ddu.demo_model(), density, batch=256, workers=2)
            seen = sum(len(batch["label"]) for batch in found.iter_batches(batch_size=256, batch_format="numpy"))
        print(f"maps of {seen} images: {watch}, {1e3 * watch.seconds / part:.2f} ms an image", flush=True)


def main():
    what, folder = sys.argv[1], Path(sys.argv[2])
    pairs = files(folder, int(sys.argv[3]) if len(sys.argv) > 3 else 100_000)
    if what == "draw":
        return
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    {"fit": fits, "maps": maps}[what](pairs)


if __name__ == "__main__":
    main()
