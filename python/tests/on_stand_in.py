"""What test_cuda.py runs in a process whose driver is the stand-in of tests/cuda: its device memory is memory of the host."""

import ctypes
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import ddu

CUDA = 2
driver = ctypes.CDLL("libcuda.so")
python = ctypes.pythonapi
python.PyCapsule_New.restype = ctypes.py_object
python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
python.PyCapsule_GetPointer.restype = ctypes.c_void_p
python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
python.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("kind", ctypes.c_int32),
        ("index", ctypes.c_int32),
        ("axes", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
        ("context", ctypes.c_void_p),
        ("deleter", DELETER),
    )


class Tensor:
    """What PyTorch would give: an array on the GPU, shared by DLPack."""

    addresses: ClassVar[list[int]] = []

    def __init__(self, array, strides=None, index=0):
        self.ndim, self.index = array.ndim, index
        address = ctypes.c_uint64()
        assert driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(array.nbytes)) == 0
        ctypes.memmove(address.value, np.ascontiguousarray(array).ctypes.data, array.nbytes)
        self.streams, self.given_back, self.address = [], 0, address.value
        self.addresses.append(self.address)
        self._shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        self._strides = None if strides is None else (ctypes.c_int64 * array.ndim)(*strides)
        self._deleter = DELETER(self._delete)
        self._code = {"u": 1, "f": 2}[array.dtype.kind], 8 * array.itemsize

    def _delete(self, _):
        self.given_back += 1

    def __dlpack_device__(self):
        return CUDA, self.index

    def __dlpack__(self, *, stream):
        self.streams.append(stream)
        self._managed = Managed(
            self.address, CUDA, self.index, self.ndim, *self._code, 1, self._shape, self._strides, 0, None, self._deleter
        )
        return python.PyCapsule_New(ctypes.addressof(self._managed), b"dltensor", None)


def values(array):
    """The content of a `ddu.DeviceArray`, as a consumer of its capsule reads it."""
    assert array.__dlpack_device__() == (CUDA, 0)
    capsule = array.__dlpack__(stream=1, max_version=(1, 0))
    managed = Managed.from_address(python.PyCapsule_GetPointer(capsule, b"dltensor"))
    assert python.PyCapsule_SetName(capsule, b"used_dltensor") == 0
    del capsule
    shape = managed.shape[: managed.axes]
    assert tuple(shape) == array.shape
    assert not managed.strides
    kind = {(1, 8): np.uint8, (2, 32): np.float32}[managed.code, managed.bits]
    content = ctypes.string_at(managed.data, int(np.prod(shape)) * np.dtype(kind).itemsize)
    managed.deleter(ctypes.addressof(managed))
    return np.frombuffer(content, kind).reshape(shape)


def calls(name):
    return sum(line.split(" ")[0] == name for line in Path(os.environ["DDU_STANDIN_LOG"]).read_text().splitlines())


def refused(call, words):
    with pytest.raises(ddu.Error) as error:
        call()
    assert words in str(error.value)


def main():
    scores = ["energy", "max-softmax"]
    engine = ddu.load(ddu.demo_model(), device="cuda:0", scores=scores)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (40 + 8 * (i == 2), 48, 3), np.uint8) for i in range(3)]
    expected = [engine(image) for image in images]
    tensors = [Tensor(image) for image in images]
    copies = [calls(name) for name in ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync")]
    found = engine([*tensors[:2], images[1], tensors[2]], batch=2)
    one = engine(tensors[0])
    kinds = [type(maps).__name__ for maps in found]
    assert kinds == ["DeviceMaps", "DeviceMaps", "Maps", "DeviceMaps"], kinds
    # The numpy image alone: its pixels up, its label and three maps down.
    assert [calls(name) for name in ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync")] == [copies[0] + 1, copies[1] + 4]
    del found[2]
    for maps, there in zip([*expected, expected[0]], [*found, one], strict=True):
        assert there.scores == maps.scores
        assert there.shape == maps.shape
        assert np.array_equal(values(there.label), maps.label)
        for score in maps.scores:
            # Batches may differ in the last bits; these do not on the stand-in, which splits no reduction of so small a network.
            assert np.array_equal(values(there.score(score)), maps.score(score)), score
        assert there.label.dtype == "uint8"
        assert there.entropy.dtype == "float32"
    held = found[0].entropy
    del found, one, maps, there
    assert [tensor.given_back for tensor in tensors] == [2, 1, 1]
    assert tensors[0].streams[0] not in (None, 0, -1), "the stream that is to wait"
    assert np.array_equal(values(held), expected[0].entropy), "an array outlives its maps and later runs"
    refused(lambda: engine(Tensor(images[0].astype(np.float32))), "dense, row-major")
    refused(lambda: engine(Tensor(images[0], strides=(1, 40, 1920))), "dense, row-major")
    refused(lambda: engine(Tensor(images[0][:, :, :2])), "[H, W, 3]")
    for wrong in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError):
            held.__dlpack__(**wrong)
    for address in Tensor.addresses:
        assert driver.cuMemFree_v2(ctypes.c_uint64(address)) == 0
    print("on the stand-in: all equal")


main()
