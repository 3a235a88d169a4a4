"""Tensors on a GPU: in and out without a trip to the host, on the stand-in for the driver (tests/cuda).

DDU_STANDIN_FOLDER names the folder with the stand-in (target/tmp/standin, which `cargo test --features simt --test cuda`
makes), and the package has to have kernels (NVCC set when it was built).
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ddu


def test_tensors_go_in_and_maps_come_out_on_the_gpu(tmp_path):
    folder = os.environ.get("DDU_STANDIN_FOLDER")
    if folder is None:
        pytest.skip("DDU_STANDIN_FOLDER names no stand-in for the driver")
    with pytest.raises(ddu.Error) as without:
        ddu.load(ddu.demo_model(), device="cuda:0")
    if "nvcc" in str(without.value):
        pytest.skip("a package without kernels")
    environment = {**os.environ, "LD_LIBRARY_PATH": folder, "DDU_STANDIN_LOG": str(tmp_path / "log")}
    (tmp_path / "log").touch()
    script = Path(__file__).with_name("on_stand_in.py")
    run = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all equal" in run.stdout


def test_a_tensor_elsewhere_takes_the_way_through_the_host():
    """What lies on a GPU, while the engine is on the CPU: its library copies it."""

    class Tensor:
        ndim, dtype = 3, "uint8"

        def __init__(self, array):
            self.array = array

        def __dlpack_device__(self):
            return 2, 0

        def __dlpack__(self, **_):
            raise AssertionError("nobody shares it")

        def cpu(self):
            return self.array

    image = np.zeros((16, 16, 3), np.uint8)
    engine = ddu.load(ddu.demo_model(), device="cpu")
    assert np.array_equal(engine(Tensor(image)).entropy, engine(image).entropy)
    with pytest.raises(ddu.InvalidError, match="on its GPU"):
        ddu._ddu.DeviceImage.of(engine._engine, Tensor(image))
