"""Models and engines: images in, maps and features out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path as _Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from . import _ddu, _gpu
from ._ddu import DeviceMaps, Maps, Model
from ._density import Density, Path
from ._errors import DensityWarning, InvalidError
from ._images import ImageLike, image_of, is_one

Device = str


def convert(
    path: Path,
    *,
    family: str | None = None,
    backbone: str | None = None,
    output_stride: int | None = None,
    atrous_rates: Sequence[int] | None = None,
    classes: Path | Sequence[str] | None = None,
) -> Model:
    """Reads a trained DeepLab checkpoint; nothing in it is executed.

    Args:
        path: a PyTorch file (zip or legacy), ``.safetensors``, or a hub folder of segmentation-models-pytorch.
        family: whose code trained it; detected if None.
        backbone: ``"resnet18"`` to ``"resnet101"``; detected if None.
        output_stride: 8 or 16. The weights do not say it: without it the family's default is taken, with a
            warning, and one that is not the training's gives poor maps.
        atrous_rates: dilations of the three ASPP branches; likewise.
        classes: class names in index order, or a file with one per line. If None, ``X.classes.txt`` or
            ``classes.txt`` beside the checkpoint is read, where there is one.
    """
    checkpoint = os.fspath(path)
    if classes is None:
        classes = _names_beside(_Path(checkpoint))
    names = _ddu.class_names(os.fspath(classes)) if isinstance(classes, (str, os.PathLike)) else classes
    model = _ddu.convert(
        checkpoint,
        family,
        backbone,
        output_stride,
        None if atrous_rates is None else list(atrous_rates),
        None if names is None else list(names),
    )
    if model.assumed:
        warnings.warn(
            f"{checkpoint}: assumed {' and '.join(model.assumed)}, which the file does not state; a network "
            "trained with others gives poor maps",
            stacklevel=2,
        )
    return model


def _names_beside(checkpoint: _Path) -> _Path | None:
    if checkpoint.is_dir():
        candidates = [checkpoint / "classes.txt"]
    else:
        candidates = [checkpoint.with_suffix(".classes.txt"), checkpoint.with_name("classes.txt")]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


class Engine:
    """A model ready to run on a device. Threads may share one: their calls run one after another."""

    def __init__(self, engine: _ddu.Engine, density: Density | None) -> None:
        self._engine = engine
        self._density = density
        self._device = engine.device

    @property
    def model(self) -> Model:
        """The model."""
        return self._engine.model

    @property
    def density(self) -> Density | None:
        """The density that scores are computed with."""
        return self._density

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:N"``."""
        return self._device

    @property
    def scores(self) -> list[str]:
        """Names of the scores that a call computes."""
        return self._engine.scores

    def __call__(self, images: ImageLike | Iterable[ImageLike], *, batch: int = 1, resize: int | None = None) -> Any:
        """Class and scores of every pixel.

        Args:
            images: a path, a PIL image, or an array ``[H, W, 3]`` or ``[3, H, W]`` of RGB (numpy, or anything with
                ``__dlpack__``), uint8 or floating point from 0 to 1, which is rounded to 255ths; or several: a list of these,
                or an array of four axes.
            batch: up to so many consecutive images of one size run together.
            resize: scale the shorter side to so many pixels first; maps have the scaled size. Another than that of the
                density's fit shifts scores, and is warned of.

        Returns:
            :class:`Maps`, or a list of them for several images; :class:`DeviceMaps` for an array on the engine's own GPU, which
            then never comes to the host (unless ``resize`` is given). Between images Ctrl-C is heard.
        """
        if batch < 1:
            raise InvalidError(f"batch: expected at least 1, found {batch}")
        if self._density is not None and resize != self._density.resize:
            warnings.warn(
                f"density: fitted with resize={self._density.resize}, this call has resize={resize}: scores shift",
                DensityWarning,
                stacklevel=2,
            )
        if is_one(images):
            return self._run([self._taken(images, resize)])[0]
        maps: list[Maps | DeviceMaps] = []
        waiting: list[_ddu.Image | _ddu.DeviceImage] = []
        for image in images:
            taken = self._taken(image, resize)
            if waiting and (len(waiting) == batch or waiting[0].size != taken.size or type(waiting[0]) is not type(taken)):
                maps += self._run(waiting)
                waiting = []
            waiting.append(taken)
        return maps + (self._run(waiting) if waiting else [])

    def _taken(self, image: ImageLike, resize: int | None) -> _ddu.Image | _ddu.DeviceImage:
        if resize is None and _gpu.lies_on(image, self._device):
            return _ddu.DeviceImage.of(self._engine, _gpu.rgb(image))
        return image_of(image, resize)

    def _run(self, images: list[Any]) -> list[Any]:
        """Of one kind."""
        if isinstance(images[0], _ddu.DeviceImage):
            return self._engine.run_on_device(images)
        return self._engine.run(images)

    def features(self, images: ImageLike | Iterable[ImageLike], *, resize: int | None = None) -> Any:
        """Features ``[h, w, D]`` of float32 on the feature grid, the input of the last 1 x 1 convolution.

        Takes images as a call does; returns an array, or a list of them for several images.
        """
        if is_one(images):
            return self._features(images, resize)
        return [self._features(image, resize) for image in images]

    def _features(self, image: ImageLike, resize: int | None) -> npt.NDArray[np.float32]:
        return self._engine.features(image_of(image, resize))

    def __repr__(self) -> str:
        return repr(self._engine)


def load(
    model: Model | Path,
    density: Density | Path | None = None,
    device: Device = "auto",
    *,
    scores: Sequence[str] | None = None,
    precision: Literal["exact", "fast"] = "exact",
) -> Engine:
    """A model ready to run.

    Args:
        model: of :func:`convert`, or a file of ``ddu convert``.
        density: of :func:`fit`, or a file of ``ddu fit``, for this model.
        device: ``"auto"``, ``"cpu"`` or ``"cuda:N"``; a named one never falls back. ``"auto"`` takes the CPU until a
            GPU of the same compute capability has confirmed the kernels.
        scores: names of the scores to compute in addition to the entropy (:func:`score_names` lists them); by default
            the log-density, where there is a density.
        precision: how a GPU holds the covariances: ``"exact"`` in two float16 terms, ``"fast"`` in one.
    """
    if not isinstance(model, Model):
        model = Model.load(os.fspath(model))
    if density is not None and not isinstance(density, Density):
        density = Density.load(density)
    native = None if density is None else density._density
    names = None if scores is None else list(scores)
    return Engine(_ddu.Engine(model, native, device, names, precision), density)
