"""Datasets of folders and pairs; what cannot be used is skipped and said."""

import os
import signal
import threading
import warnings

import numpy as np
import pytest

import ddu


@pytest.fixture(scope="module")
def bare():
    return ddu.load(ddu.demo_model())


def content(density):
    return density._density.to_bytes()


def test_folders_and_pairs_give_the_same_bytes(scenes, density, bare):
    PIL = pytest.importorskip("PIL.Image")
    names = [f"train-{i:05}.png" for i in range(20)]
    paths = [(scenes / "JPEGImages" / name, scenes / "SegmentationClass" / name) for name in names]
    assert content(ddu.fit(bare, paths)) == content(density)

    def arrays():
        for image, mask in paths:
            yield np.asarray(PIL.open(image)), np.asarray(PIL.open(mask)).astype(np.int64)

    assert content(ddu.fit(bare, arrays())) == content(density)
    halves = [ddu.fit(bare, paths[:9]), ddu.fit(bare, paths[9:])]
    merged = halves[0].merge(halves[1])
    assert (merged.count == density.count).all()
    assert merged.images == 20
    with pytest.raises(ddu.InvalidError, match="no other shard"):
        merged.merge(halves[1])


def test_what_cannot_be_used_is_skipped(scenes, bare, tmp_path):
    image, mask = (scenes / folder / "train-00000.png" for folder in ("JPEGImages", "SegmentationClass"))
    other = scenes / "JPEGImages" / "train-00001.png"
    broken = tmp_path / "broken.png"
    broken.write_bytes(image.read_bytes()[:999])
    pairs = [(broken, mask), (image, mask), (image, mask), (other, other)]
    with pytest.warns(ddu.SkippedWarning) as caught:
        fitted = ddu.fit(bare, pairs)
    assert fitted.images == 1
    lines = [str(warning.message) for warning in caught if warning.category is ddu.SkippedWarning]
    assert len(lines) == 3
    assert "broken.png" in lines[0]
    assert "in the fit already" in lines[1]
    assert "class indices" in lines[2]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ddu.SkippedWarning)
        with pytest.raises(ddu.SkippedWarning, match="broken"):
            ddu.fit(bare, pairs)


@pytest.mark.filterwarnings("ignore::ddu.SkippedWarning")
def test_refusals(scenes, bare, tmp_path):
    with pytest.raises(ddu.InvalidError, match="found neither"):
        ddu.fit(bare, scenes)
    with pytest.raises(ddu.InvalidError, match="found pairs"):
        ddu.fit(bare, [], split="train")
    with pytest.raises(ddu.InvalidError, match="trainval"):
        ddu.fit(bare, scenes, split="trainval")
    with pytest.raises(ddu.InvalidError, match="2 samples"):
        ddu.fit(bare, [])
    with pytest.raises(ddu.InvalidError, match="no class of the dataset"):
        ddu.fit(bare, scenes, split="train", class_map=["roof=0"])
    with pytest.raises(ddu.InvalidError, match="one of confidence"):
        ddu.fit(bare, scenes, split="train", weight="size")
    with pytest.raises(ddu.InvalidError, match="does not have"):
        ddu.evaluate(bare, scenes, split="test", ood_classes=["road"])
    with pytest.raises(ddu.InvalidError, match="widths"):
        ddu.evaluate(bare, scenes, split="test", patches=[0])


def test_evaluation_without_a_density_shows_itself(scenes, bare):
    report = ddu.evaluate(bare, scenes, split="test", ood_classes=["cow", "sofa"])
    assert set(report["scores"]) == {"entropy", "max-softmax", "energy", "entropy-t2"}
    assert report["images"] == 2
    page = report._repr_html_()
    assert "<table>" in page
    assert "max-softmax" in page
    assert "max-softmax" in repr(report)


def test_a_weighted_fit(scenes, bare):
    density = ddu.fit(bare, scenes, split="train", weight="confidence")
    engine = ddu.load(ddu.demo_model(), density, scores=["weighted-density"])
    maps = engine(scenes / "JPEGImages" / "test-00000.png")
    assert np.isfinite(maps.score("weighted-density")).all()


def test_ctrl_c_is_heard_between_images(bare):
    image = np.zeros((64, 64, 3), np.uint8)
    # Processes that a shell starts in the background ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        # Seconds of work and 400 MB of maps, should nobody hear it.
        with pytest.raises(KeyboardInterrupt):
            bare([image] * 20_000)
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)
    assert bare(image).shape == (64, 64)


def test_the_demo(tmp_path):
    seen = []

    def bar(done, of):
        seen.append((done, of))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ddu._ddu.demo(str(tmp_path / "demo"), bar)
    assert seen == [(1, 150), (2, 150), (3, 150)]
