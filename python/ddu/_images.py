"""What a caller may call an image, as the engine's own."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _ddu
from ._arrays import CUDA, host, shape_of
from ._errors import InvalidError

#: A path, a PIL image, or an array ``[H, W, 3]`` of uint8 (numpy, or anything with ``__dlpack__``).
ImageLike = Any


def on_gpu_of(engine: _ddu.Engine, image: ImageLike) -> bool:
    """Whether an image is an array on the engine's GPU."""
    kind, colon, ordinal = engine.device.partition(":")
    if not colon or not hasattr(image, "__dlpack_device__"):
        return False
    return kind == "cuda" and tuple(image.__dlpack_device__()) == (CUDA, int(ordinal))


def device_image_of(engine: _ddu.Engine, image: ImageLike) -> _ddu.DeviceImage:
    """``[H, W, 3]`` of uint8, where it lies. Only one of other strides is copied, on the GPU, by its own library."""
    if hasattr(image, "is_contiguous") and not image.is_contiguous():
        image = image.contiguous()
    return _ddu.DeviceImage.of(engine, image)


def image_of(image: ImageLike, resize: int | None = None) -> _ddu.Image:
    """A path is decoded upright, as its EXIF data says; a PIL image is taken as it is."""
    if isinstance(image, (str, os.PathLike)):
        return _ddu.Image.read(os.fspath(image), True, resize)
    return _ddu.Image.of(pixels_of(image), resize)


def is_one(images: Any) -> bool:
    """Whether it is an image, not several."""
    if isinstance(images, (str, os.PathLike)) or _is_pil(images):
        return True
    if isinstance(images, (list, tuple)):
        return False
    return bool(getattr(images, "ndim", 0) != 4)


def pixels_of(image: ImageLike) -> npt.NDArray[np.uint8]:
    """``[H, W, 3]`` of uint8."""
    if _is_pil(image):
        image = np.asarray(image.convert("RGB"))
    found, _ = host(image, "image")
    if found.dtype != np.uint8 or found.ndim != 3 or found.shape[2] != 3:
        fix = ""
        if found.ndim == 2:
            fix = "; repeat a gray image three times: np.stack([image] * 3, axis=-1)"
        elif found.ndim == 3 and found.shape[0] == 3:
            fix = "; move the channels to the end: permute(1, 2, 0)"
        elif found.dtype != np.uint8:
            fix = "; pictures before any normalisation: the model file has mean and standard deviation"
        raise InvalidError(f"image: expected [H, W, 3] of uint8, found {shape_of(found)}{fix}")
    return found


def _is_pil(image: Any) -> bool:
    # Without importing PIL for those who have none.
    return any(cls.__module__ == "PIL.Image" and cls.__name__ == "Image" for cls in type(image).__mro__)
