"""What a caller may call an image, as the engine's own."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _ddu
from ._arrays import host, shape_of
from ._errors import InvalidError

#: A path, a PIL image, or an array ``[H, W, 3]`` or ``[3, H, W]`` of uint8, or of floating point from 0 to 1 (numpy, or anything
#: with ``__dlpack__``).
ImageLike = Any


def image_of(image: ImageLike, resize: int | None = None) -> _ddu.Image:
    """A path is decoded upright, as its EXIF data says; a PIL image is taken as it is."""
    # Asked first: beside a small network each question is felt.
    if not isinstance(image, np.ndarray) and isinstance(image, (str, os.PathLike)):
        return _ddu.Image.read(os.fspath(image), True, resize)
    return _ddu.Image.of(pixels_of(image), resize)


def is_one(images: Any) -> bool:
    """Whether it is an image, not several."""
    if isinstance(images, np.ndarray):
        return images.ndim != 4
    if isinstance(images, (str, os.PathLike)) or _is_pil(images):
        return True
    if isinstance(images, (list, tuple)):
        return False
    return bool(getattr(images, "ndim", 0) != 4)


def pixels_of(image: ImageLike) -> npt.NDArray[np.uint8]:
    """``[H, W, 3]`` of uint8. Floating point is rounded to 255ths, which those are that a library made of uint8."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3 != image.shape[0]:
        return image
    if _is_pil(image):
        # Its channels are last, also where it has 3 rows.
        return np.asarray(image.convert("RGB"))
    found, bf16 = host(image, "image")
    floats = found.dtype.kind == "f"
    if found.ndim != 3 or 3 not in (found.shape[0], found.shape[2]) or bf16 or not (floats or found.dtype == np.uint8):
        fix = "; repeat a gray image three times: np.stack([image] * 3, axis=-1)" if found.ndim == 2 else ""
        expected = "[H, W, 3] or [3, H, W] of uint8, or of floating point from 0 to 1"
        raise InvalidError(f"image: expected {expected}, found {shape_of(found)}{fix}")
    if channels_first(found.shape):
        found = found.transpose(1, 2, 0)
    if floats and found.size:
        require_unit(float(found.min()), float(found.max()))
    return np.rint(found.astype(np.float32, copy=False) * 255).astype(np.uint8) if floats else found


def channels_first(shape: tuple[int, ...]) -> bool:
    """Whether a picture is ``[3, H, W]``; where it may be that as well as ``[H, W, 3]`` it is refused."""
    if len(shape) != 3 or shape[0] != 3:
        return False
    if shape[2] == 3:
        raise InvalidError(
            f"image: expected [H, W, 3] or [3, H, W], found {list(shape)}, which may be either; PIL.Image.fromarray makes one "
            "whose channels are last"
        )
    return True


def require_unit(low: float, high: float) -> None:
    """Refuses a picture of floating point with other values than 0 to 1, NaN among them."""
    if low >= 0 and high <= 1:
        return
    fix = "give one of 0 to 255 as uint8" if low >= 0 and high <= 255 else "give pictures before any normalisation"
    raise InvalidError(f"image: expected floating point from 0 to 1, found {low:g} to {high:g}; {fix}")


def _is_pil(image: Any) -> bool:
    # Without importing PIL for those who have none.
    return any(cls.__module__ == "PIL.Image" and cls.__name__ == "Image" for cls in type(image).__mro__)
