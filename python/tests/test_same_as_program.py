"""The package and the program give the same bytes."""

import json

import numpy as np
import pytest
from conftest import MODEL

import ddu

PIL = pytest.importorskip("PIL.Image", reason="Pillow reads the program's PNG")


def test_fit_infer_and_eval(tmp_path, scenes, program, density, engine):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    density.save(ours)
    program("fit", "--model", MODEL, "--data", scenes, "--split", "train", "-o", theirs)
    assert ours.read_bytes() == theirs.read_bytes()

    image = scenes / "JPEGImages" / "test-00000.png"
    scores = ["entropy", "density", "relative", "energy"]
    program("infer", "--model", MODEL, "--density", theirs, "--score", ",".join(scores), image, "-o", tmp_path / "maps")
    maps = engine(image)
    label = np.asarray(PIL.open(tmp_path / "maps" / "test-00000.label.png"))
    assert label.tobytes() == maps.label.tobytes()
    for score in scores:
        theirs_map = np.load(tmp_path / "maps" / f"test-00000.{score}.npy")
        assert theirs_map.tobytes() == maps.score(score).tobytes(), score

    program("eval", "--model", MODEL, "--density", theirs, "--data", scenes, "--split", "test", "-o", tmp_path / "eval")
    expected = json.loads((tmp_path / "eval" / "results.json").read_text())
    report = ddu.evaluate(engine, scenes, split="test")
    for part in ("images", "pixels", "void_pixels", "unknown_pixels", "ood_labels", "accuracy", "scores", "curves"):
        assert report[part] == expected[part], part
    assert report["calibration"] == expected["calibration"]
    assert engine.scores == ["entropy", "energy", "density", "relative"]


def test_the_demo_model_is_the_file():
    assert ddu.demo_model().sha256 == ddu.load(MODEL).model.sha256
