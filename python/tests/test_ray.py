"""Ray: the same bytes from one worker, from two, and from two of which one was killed."""

import os
import random
import signal
import threading
import time
import warnings
from pathlib import Path

import numpy as np
import pytest

import ddu
from ddu import _ddu

ray = pytest.importorskip("ray", reason="no Ray here: its tests are skipped")
pytest.importorskip("ray.data", reason="Ray without Data: its tests are skipped")
import ddu.ray

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def cluster():
    ray.init(num_cpus=2, include_dashboard=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def pairs(scenes):
    names = [f"train-{i:05}.png" for i in range(20)]
    return [(scenes / "JPEGImages" / name, scenes / "SegmentationClass" / name) for name in names]


def content(density):
    return density._density.to_bytes()


def by_hand(pairs, shard):
    """The tree of a fit, by recursion, on this machine."""
    engine = ddu.load(ddu.demo_model())

    def leaf(part):
        fit = _ddu.Fit(engine._engine, None, [], None, None)
        files = _ddu.Dataset.pairs([(str(image), str(mask)) for image, mask in part])
        for index in range(len(files)):
            fit.add(files.read(index, None))
        return fit.shard()

    nodes = [leaf(pairs[at : at + shard]) for at in range(0, len(pairs), shard)]
    while len(nodes) > 1:
        for left, right in zip(nodes[::2], nodes[1::2], strict=False):
            left.merge("right", right)
        nodes = nodes[::2]
    return nodes[0].to_bytes()


def test_any_order_of_shards_gives_the_same_bytes(pairs):
    expected = by_hand(pairs, 3)
    engine = ddu.load(ddu.demo_model())
    for seed in range(3):
        tree = ddu.ray.Tree(7)
        order = list(range(7))
        random.Random(seed).shuffle(order)
        for number in order:
            fit = _ddu.Fit(engine._engine, None, [], None, None)
            for image, mask in pairs[3 * number : 3 * number + 3]:
                fit.add(_ddu.Dataset.pairs([(str(image), str(mask))]).read(0, None))
            tree.add(number, fit.shard())
        assert tree.root().to_bytes() == expected


def test_workers_and_shards(cluster, pairs, scenes, density):
    expected = by_hand(pairs, 3)
    one = ddu.ray.fit(pairs, ddu.demo_model(), shard=3, workers=1)
    two = ddu.ray.fit(scenes, ddu.demo_model(), split="train", shard=3, workers=2)
    assert content(one) == expected
    assert content(two) == expected
    assert content(ddu.ray.fit(pairs, ddu.demo_model(), workers=2)) == content(density), "one shard: ddu.fit's bytes"


def test_a_killed_worker_changes_nothing(cluster, pairs):
    here, killed = os.getpid(), []

    def kill():
        """The first worker that has loaded the engine and is in the middle of its shards."""
        until = time.time() + 60
        while not killed and time.time() < until:
            for pid in filter(str.isdigit, os.listdir("/proc")):
                try:
                    title = Path(f"/proc/{pid}/cmdline").read_text()
                    loaded = "_ddu.abi3.so" in Path(f"/proc/{pid}/maps").read_text()
                except OSError:
                    continue
                if int(pid) != here and "MapWorker" in title and loaded:
                    time.sleep(0.3)
                    os.kill(int(pid), signal.SIGKILL)
                    killed.append(int(pid))
                    break
            time.sleep(0.05)

    killer = threading.Thread(target=kill)
    killer.start()
    found = ddu.ray.fit(pairs, ddu.demo_model(), shard=1, workers=2)
    killer.join()
    assert killed, "no worker was found to kill"
    assert content(found) == by_hand(pairs, 1)


def test_what_cannot_be_used_is_skipped(cluster, pairs, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = ddu.ray.fit([*pairs[:3], (broken, pairs[3][1])], ddu.demo_model(), shard=2, workers=1)
    assert found.images == 3
    assert any("broken.png" in str(warning.message) for warning in caught)
    with pytest.raises(ddu.InvalidError, match="no other shard"):
        ddu.ray.fit([pairs[0], pairs[0]], ddu.demo_model(), shard=1, workers=1)
    with pytest.raises(ddu.InvalidError, match="two paths"):
        ddu.ray.fit([(np.zeros(3), np.zeros(3))], ddu.demo_model())


def test_maps(cluster, pairs, density):
    paths = [image for image, _ in pairs[:5]]
    rows = ddu.ray.infer(paths, ddu.demo_model(), density, scores=["density", "energy"], batch=2, workers=2).take_all()
    engine = ddu.load(ddu.demo_model(), density, scores=["density", "energy"])
    found = {row["path"]: row for row in rows}
    assert len(found) == 5
    for path in paths:
        maps, row = engine(path), found[str(path)]
        assert np.array_equal(row["label"], maps.label)
        for score in ("entropy", "energy", "density"):
            assert np.array_equal(row[score], maps.score(score))
    images = [{"image": np.full((16 + 8 * i, 24, 3), 99, np.uint8), "id": i} for i in range(3)]
    rows = ddu.ray.infer(ray.data.from_items(images), ddu.demo_model(), workers=1).take_all()
    assert sorted((row["id"], row["label"].shape) for row in rows) == [(0, (16, 24)), (1, (24, 24)), (2, (32, 24))]
    assert "image" not in rows[0]
