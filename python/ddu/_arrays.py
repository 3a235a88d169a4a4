"""Arrays of other libraries as numpy arrays, without a copy where they lie in the host's memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ._errors import InvalidError

#: Anything with ``__array__`` or ``__dlpack__``: numpy, PyTorch, JAX, CuPy.
Array = Any

CUDA = 2  # DLPack's kDLCUDA
_HOST = (1, 3)  # DLPack's kDLCPU and kDLCUDAHost


def host(array: Array, what: str) -> tuple[npt.NDArray[Any], bool]:
    """An array of the host's memory, and whether its elements are the bits of bfloat16 (as uint16).

    What lies on a GPU is copied to the host.
    """
    if isinstance(array, np.ndarray):
        found = array
    else:
        try:
            found = _from_other(array, what)
        except InvalidError:
            raise
        except Exception as error:  # every library has exceptions of its own
            text = str(error).splitlines()
            raise InvalidError(
                f"{what}: expected an array that shares its memory by DLPack, found "
                f"{type(array).__name__}: {text[0] if text else error!r}"
            ) from error
    bf16 = found.dtype.name == "bfloat16"
    if bf16:
        found = found.view(np.uint16)
    if not found.dtype.isnative:
        found = found.astype(found.dtype.newbyteorder("="))
    if not found.flags.aligned:
        found = found.copy()
    return found, bf16 or getattr(array, "dtype", None).__str__() == "torch.bfloat16"


def _from_other(array: Array, what: str) -> npt.NDArray[Any]:
    if not hasattr(array, "__dlpack__"):
        if hasattr(array, "__array__") or hasattr(array, "__array_interface__"):
            return np.asarray(array)
        expected = "a numpy array or anything with __dlpack__"
        raise InvalidError(f"{what}: expected {expected}, found {type(array).__name__}")
    if hasattr(array, "detach"):
        array = array.detach()
    if str(array.dtype) == "torch.bfloat16":
        # numpy has no such type: the bits travel.
        array = array.view(__import__("torch").int16)
        return _from_other(array, what).view(np.uint16)
    if array.__dlpack_device__()[0] not in _HOST:
        array = array.cpu() if hasattr(array, "cpu") else np.from_dlpack(array, device="cpu")
    return array if isinstance(array, np.ndarray) else np.from_dlpack(array)


def labels_of(labels: Array, what: str = "labels") -> npt.NDArray[np.uint8]:
    """Labels as uint8, 255 for void."""
    found, _ = host(labels, what)
    if found.dtype == np.uint8:
        return found
    if found.dtype.kind not in "iu":
        raise InvalidError(f"{what}: expected integers, class indices or 255 for void, found {found.dtype}")
    if found.size and (found.min() < 0 or found.max() > 255):
        raise InvalidError(f"{what}: expected 0 to 255, found {found.min()} to {found.max()}; give void pixels the label 255")
    return found.astype(np.uint8)


def shape_of(array: npt.NDArray[Any]) -> str:
    """As messages say it."""
    return f"{list(array.shape)} of {array.dtype}"


def require_features(shape: tuple[int, ...], dtype: str, layout: str, *, known: bool) -> None:
    """Refuses what is no map or list of features; ``known``: whether their type is one that is taken."""
    if layout not in ("NCHW", "NHWC"):
        raise InvalidError(f'layout: expected "NCHW" or "NHWC", found {layout!r}')
    if not known:
        raise InvalidError(f"features: expected float32, float16 or bfloat16, found {dtype}")
    if len(shape) not in (2, 3, 4):
        expected = "[N, D, H, W] or [D, H, W] (or, by layout, channels last), or [P, D]"
        raise InvalidError(f"features: expected {expected}, found {list(shape)} of {dtype}")
    if 0 in shape:
        raise InvalidError(f"features: expected at least one, found {list(shape)} of {dtype}")
