"""Ray: the same bytes from one worker, from two, and from two of which one was killed."""

import os
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
    # The GPUs are Ray's belief alone.
    ray.init(num_cpus=3, num_gpus=2, include_dashboard=False)
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


def arrays(pairs):
    """Rows of a Ray Dataset: what the files hold."""
    opened = pytest.importorskip("PIL.Image", reason="Pillow reads the scenes").open
    return [{"image": np.asarray(opened(a)), "mask": np.asarray(opened(b)), "row": i} for i, (a, b) in enumerate(pairs)]


def test_the_tree_of_any_number_of_shards(pairs):
    engine = ddu.load(ddu.demo_model())
    for count in (1, 2, 3, 6, 7, 20):
        tree = ddu.ray.Tree()
        for pair in pairs[:count]:
            fit = _ddu.Fit(engine._engine, None, [], None, None)
            fit.add(_ddu.Dataset.pairs([tuple(map(str, pair))]).read(0, None))
            tree.add(fit.shard())
        assert tree.root().to_bytes() == by_hand(pairs[:count], 1), count


def test_workers_and_shards(cluster, pairs, scenes, density):
    expected = by_hand(pairs, 3)
    one = ddu.ray.fit(pairs, ddu.demo_model(), shard=3, workers=1)
    two = ddu.ray.fit(scenes, ddu.demo_model(), split="train", shard=3, workers=2)
    assert content(one) == expected
    assert content(two) == expected
    assert content(ddu.ray.fit(pairs, ddu.demo_model(), workers=2)) == content(density), "one shard: ddu.fit's bytes"


def test_a_ray_dataset(cluster, pairs):
    expected = by_hand(pairs, 3)
    rows = [{"image": str(image), "mask": str(mask)} for image, mask in pairs]
    for blocks in (1, 7):
        dataset = ray.data.from_items(rows, override_num_blocks=blocks)
        assert content(ddu.ray.fit(dataset, ddu.demo_model(), shard=3, workers=2)) == expected, f"{blocks} blocks of paths"
    assert not dataset.context.execution_options.preserve_order, "the dataset's options are as they were"
    dataset = ray.data.from_items(arrays(pairs), override_num_blocks=4)
    assert content(ddu.ray.fit(dataset, ddu.demo_model(), shard=3, workers=2)) == expected, "arrays"
    slow = dataset.map(late)
    assert content(ddu.ray.fit(slow, ddu.demo_model(), shard=3, workers=2)) == expected, "the first rows come last"
    with pytest.raises(ddu.InvalidError, match="Ray Dataset"):
        ddu.ray.fit(dataset, ddu.demo_model(), split="train")
    with pytest.raises(Exception, match="columns image and mask, found image, row"):
        ddu.ray.fit(dataset.drop_columns(["mask"]), ddu.demo_model())
    with pytest.raises(ddu.InvalidError, match="at least one"):
        ddu.ray.fit(dataset.limit(0), ddu.demo_model())
    with pytest.raises(ddu.InvalidError, match="beside the 3 of a worker"):
        ddu.ray.fit(dataset, ddu.demo_model(), cpus_per_worker=3)


def late(row):
    time.sleep(0.5 if row["row"] < 5 else 0)
    return row


def test_blocks_of_few_bytes(cluster, pairs):
    """Ray cuts blocks by bytes too; shards keep their images."""
    before = ray.data.DataContext.get_current().target_max_block_size
    ray.data.DataContext.get_current().target_max_block_size = 100_000
    try:
        dataset = ray.data.from_items(arrays(pairs), override_num_blocks=3)
        found = ddu.ray.fit(dataset, ddu.demo_model(), shard=7, workers=2)
    finally:
        ray.data.DataContext.get_current().target_max_block_size = before
    assert content(found) == by_hand(pairs, 7)


@pytest.mark.parametrize("of", ["paths", "arrays"])
def test_a_killed_worker_changes_nothing(cluster, pairs, of):
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

    dataset = pairs if of == "paths" else ray.data.from_items(arrays(pairs), override_num_blocks=5)
    killer = threading.Thread(target=kill)
    killer.start()
    found = ddu.ray.fit(dataset, ddu.demo_model(), shard=1, workers=2)
    killer.join()
    assert killed, "no worker was found to kill"
    assert content(found) == by_hand(pairs, 1)


def test_a_worker_takes_the_gpu_that_ray_gave_it(cluster, pairs, monkeypatch):
    @ray.remote(num_gpus=1)
    class Worker:
        def device(self):
            # Its scheduling is real, its GPU is not.
            return ray.get_runtime_context().get_accelerator_ids()["GPU"][0], ddu.ray._device(1)

    workers = [Worker.remote() for _ in range(2)]
    assert sorted(ray.get([worker.device.remote() for worker in workers])) == [("0", "cuda:0"), ("1", "cuda:0")]
    for worker in workers:
        ray.kill(worker)
    told = {"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}}
    workers = [Worker.options(runtime_env=told).remote() for _ in range(2)]
    found = sorted(ray.get([worker.device.remote() for worker in workers]))
    assert found == [("0", "cuda:0"), ("1", "cuda:1")], "where Ray leaves the variable alone"
    for worker in workers:
        ray.kill(worker)
    assert ddu.ray._device(0) == "cpu"
    # The engine is opened there, and says what is missing.
    with pytest.raises(Exception, match="cuda:0"):
        ddu.ray.fit(pairs, ddu.demo_model(), gpus_per_worker=1, workers=1)


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
