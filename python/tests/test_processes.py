"""Processes: a forked child has no threads, and is told so; a spawned one has its own."""

import multiprocessing
import subprocess
import sys

import numpy as np
import pytest

import ddu

IMAGE = np.zeros((32, 32, 3), np.uint8)


def work(engine, queue):
    try:
        queue.put(engine(IMAGE).label.sum())
    except ddu.Error as error:
        queue.put(error)


def test_a_forked_child_is_refused(engine):
    engine(IMAGE)
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=work, args=(engine, queue))
    child.start()
    error = queue.get()
    child.join(20)
    assert child.exitcode == 0
    assert isinstance(error, ddu.DeviceError)
    assert "forked" in str(error)
    assert "spawn" in str(error)


def test_a_child_of_a_parent_that_only_imported_it_computes():
    text = (
        "import os, numpy, ddu\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    maps = ddu.load(ddu.demo_model())(numpy.zeros((32, 32, 3), 'u1'))\n"
        "    os._exit(7 if maps.shape == (32, 32) else 1)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", text], check=False).returncode == 7


@pytest.mark.parametrize(("value", "says"), [("many", "RAYON_NUM_THREADS"), ("3", "3")])
def test_threads(value, says):
    text = "import ddu\ntry:\n    print(ddu.threads())\nexcept ddu.InvalidError as error:\n    print(error)\n"
    run = subprocess.run(
        [sys.executable, "-c", text], env={"RAYON_NUM_THREADS": value}, capture_output=True, text=True, check=True
    )
    assert says in run.stdout
