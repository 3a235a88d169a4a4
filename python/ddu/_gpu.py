"""Arrays on a GPU as the kernels take them: brought to that form there, by the library that they are of."""

from __future__ import annotations

from ._arrays import CUDA, Array, require_features
from ._errors import InvalidError
from ._images import channels_first, require_unit


def lies_on(array: Array, device: str) -> bool:
    """Whether an array lies on the GPU of that name, ``"cuda:N"``."""
    if device == "cpu" or not hasattr(array, "__dlpack_device__"):
        return False
    return tuple(array.__dlpack_device__()) == (CUDA, int(device.removeprefix("cuda:")))


def rgb(image: Array) -> Array:
    """``[H, W, 3]`` of uint8, dense, of one of PyTorch's tensors. Others have to be so already."""
    if not hasattr(image, "permute"):
        return image
    if channels_first(tuple(image.shape)):
        image = image.permute(1, 2, 0)
    if str(image.dtype) in ("torch.float64", "torch.float32", "torch.float16"):
        low, high = (float(end) for end in image.aminmax())
        require_unit(low, high)
        image = image.float().mul(255).round().byte()
    return image.contiguous()


def features(array: Array, layout: str) -> tuple[Array, tuple[int, ...]]:
    """Features ``[.., D]`` of float16, dense, and the shape of a map of them.

    PyTorch's tensors are brought there by PyTorch; others have to be ``[N, H, W, D]`` (or fewer axes before D) of float16, dense.
    """
    shape, dtype = tuple(array.shape), str(array.dtype)
    torch = hasattr(array, "permute")
    known = not torch or dtype in ("torch.float32", "torch.float16", "torch.bfloat16")
    require_features(shape, dtype, layout, known=known)
    channels_last = layout == "NHWC" or len(shape) == 2
    if torch:
        array = array.detach()
        if not channels_last:
            array = array.permute(*range(len(shape) - 3), -2, -1, -3)
        array = array.half().contiguous()
    elif not channels_last:
        expected = 'PyTorch\'s, or float16 with channels last and layout="NHWC"'
        raise InvalidError(f"features: expected {expected}, found {list(shape)} of {dtype}")
    return array, tuple(array.shape)[:-1]


def require_finite(rows: Array, images: int) -> None:
    """Refuses features, as :func:`features` gives them, of which one is not finite; of PyTorch's tensors."""
    if not hasattr(rows, "isfinite"):
        raise InvalidError('features: expected PyTorch\'s for non_finite="raise", found others on a GPU; take non_finite="skip"')
    broken = rows.isfinite().all(-1).logical_not().flatten()
    if not broken.any():
        return
    image, pixel = divmod(int(broken.nonzero()[0][0]), broken.shape[0] // images)
    raise InvalidError(
        f"features: expected values that are finite in float16, found others in pixel {pixel} of image {image}; "
        'non_finite="skip" leaves such pixels out and counts them'
    )


def labels(array: Array) -> Array:
    """PyTorch's labels on a GPU as uint8, dense."""
    if not hasattr(array, "byte"):
        return array
    if array.is_floating_point():
        raise InvalidError(f"labels: expected integers, class indices or 255 for void, found {array.dtype}")
    low, high = (int(end) for end in array.aminmax())
    if low < 0 or high > 255:
        raise InvalidError(f"labels: expected 0 to 255, found {low} to {high}; give void pixels the label 255")
    return array.byte().contiguous()
