"""Semantic segmentation that knows what it does not know.

Per pixel of a DeepLab network: the class, the softmax entropy (aleatoric uncertainty) and the log-density of the feature
under one Gaussian per class (epistemic uncertainty), in one forward pass (Mukhoti et al., arXiv 2111.00079).

>>> model = ddu.convert("checkpoint.pth", classes="classes.txt")
>>> density = ddu.fit(ddu.load(model), "VOC", split="train")
>>> maps = ddu.load(model, density)("photo.jpg")
>>> maps.label, maps.entropy, maps.density

For features of any other network: :class:`Moments`, and :mod:`ddu.torch`. On many machines: :mod:`ddu.ray`.
"""

from ._dataset import evaluate, fit
from ._ddu import DeviceArray, DeviceMaps, Maps, Model, __version__, demo_model, score_names, threads
from ._demo import demo, scenes
from ._density import Density, Moments, sample_labels
from ._engine import Engine, convert, load
from ._errors import (
    DensityWarning,
    DeviceError,
    Error,
    FileError,
    InvalidError,
    OutOfMemoryError,
    SkippedWarning,
)
from ._report import Report

__all__ = [
    "Density",
    "DensityWarning",
    "DeviceArray",
    "DeviceError",
    "DeviceMaps",
    "Engine",
    "Error",
    "FileError",
    "InvalidError",
    "Maps",
    "Model",
    "Moments",
    "OutOfMemoryError",
    "Report",
    "SkippedWarning",
    "__version__",
    "convert",
    "demo",
    "demo_model",
    "evaluate",
    "fit",
    "load",
    "sample_labels",
    "scenes",
    "score_names",
    "threads",
]
