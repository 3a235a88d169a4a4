"""The package and the program give the same bytes; the README's lines first of all."""

import json
import re

import numpy as np
import pytest
from conftest import MODEL, ROOT

import ddu

PIL = pytest.importorskip("PIL.Image", reason="Pillow reads the program's PNG")

# What a report has besides them is where it was made.
WHERE = {"model_sha256", "device"}


def compare(tmp_path, scenes, program, density, maps, report, ood=()):
    """A density, the maps of the first test image and a report, with the program's."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    density.save(ours)
    program("fit", "--model", MODEL, "--data", scenes, "--split", "train", "-o", theirs)
    assert ours.read_bytes() == theirs.read_bytes()

    image = scenes / "JPEGImages" / "test-00000.png"
    common = ("--model", MODEL, "--density", theirs)
    program("infer", *common, "--score", ",".join(maps.scores), image, "-o", tmp_path / "maps")
    label = np.asarray(PIL.open(tmp_path / "maps" / "test-00000.label.png"))
    assert label.tobytes() == maps.label.tobytes()
    for score in maps.scores:
        expected = np.load(tmp_path / "maps" / f"test-00000.{score}.npy")
        assert expected.tobytes() == maps.score(score).tobytes(), score

    named = ("--ood-classes", ",".join(ood)) if ood else ()
    program("eval", *common, "--data", scenes, "--split", "test", *named, "-o", tmp_path / "eval")
    expected = json.loads((tmp_path / "eval" / "results.json").read_text())
    assert report.keys() > WHERE
    for part in report.keys() - WHERE:
        assert report[part] == expected[part], part


def test_the_lines_of_the_readme(tmp_path, monkeypatch, program, capsys):
    text = (ROOT / "README.md").read_text()
    (lines,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(lines, names)
    assert "unknown" in capsys.readouterr().out
    ood = ("cow", "sofa", "boxes", "cone", "person", "ball")
    compare(tmp_path, tmp_path / "scenes", program, names["density"], names["maps"], names["report"], ood)


def test_more_scores(tmp_path, scenes, program, density, engine):
    maps = engine(scenes / "JPEGImages" / "test-00000.png")
    report = ddu.evaluate(engine, scenes, split="test")
    compare(tmp_path, scenes, program, density, maps, report)
    assert engine.scores == ["entropy", "energy", "density", "relative"], "an evaluation leaves them as they were"


def test_the_demo_model_is_the_file():
    assert ddu.demo_model().sha256 == ddu.load(MODEL).model.sha256
