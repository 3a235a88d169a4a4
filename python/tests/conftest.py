"""Scenes of the demo, its network, and the program if it is built."""

import os
import subprocess
from pathlib import Path

import pytest

import ddu

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "assets" / "demo.safetensors"


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """20 training scenes, 2 for validation, 2 for test."""
    folder = tmp_path_factory.mktemp("scenes")
    ddu.scenes(folder, count=20)
    return folder


@pytest.fixture(scope="session")
def density(scenes):
    return ddu.fit(ddu.load(ddu.demo_model()), scenes, split="train")


@pytest.fixture(scope="session")
def engine(density):
    return ddu.load(ddu.demo_model(), density, scores=["density", "relative", "energy"])


@pytest.fixture(scope="session")
def program():
    """Runs `ddu`: the file that DDU_PROGRAM names."""
    path = os.environ.get("DDU_PROGRAM")
    if path is None:
        pytest.skip("DDU_PROGRAM names no program to compare with")

    def run(*arguments):
        subprocess.run([path, *map(str, arguments)], check=True, capture_output=True)

    return run
