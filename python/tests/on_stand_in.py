"""What test_cuda.py runs in a process whose driver is the stand-in of tests/cuda: its device memory is memory of the host."""

import ctypes
import functools
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


TENSOR = (
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
)
MANAGER = (("context", ctypes.c_void_p), ("deleter", DELETER))


class Managed(ctypes.Structure):
    """DLManagedTensor."""

    _fields_ = (*TENSOR, *MANAGER)


class ManagedVersioned(ctypes.Structure):
    """DLManagedTensorVersioned."""

    _fields_ = (("major", ctypes.c_uint32), ("minor", ctypes.c_uint32), *MANAGER, ("flags", ctypes.c_uint64), *TENSOR)


class Tensor:
    """An array on the GPU, shared by DLPack 0, as a library that knows no other version does."""

    addresses: ClassVar[list[int]] = []

    def __init__(self, array, strides=None, index=0):
        self.ndim, self.index, self.shape, self.dtype = array.ndim, index, array.shape, array.dtype
        address = ctypes.c_uint64()
        assert driver.cuCtxSetCurrent(self.context()) == 0
        assert driver.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(array.nbytes)) == 0
        ctypes.memmove(address.value, np.ascontiguousarray(array).ctypes.data, array.nbytes)
        self.streams, self.given_back, self.address = [], 0, address.value
        self.addresses.append(self.address)
        self._shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        self._strides = None if strides is None else (ctypes.c_int64 * array.ndim)(*strides)
        self._deleter = DELETER(self._delete)
        self._code = {"u": 1, "f": 2}[array.dtype.kind], 8 * array.itemsize

    @staticmethod
    @functools.cache
    def context():
        """The GPU's primary context, which its library holds too."""
        context = ctypes.c_void_p()
        assert driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
        return context

    def _delete(self, _):
        self.given_back += 1

    def __dlpack_device__(self):
        return CUDA, self.index

    def _tensor(self):
        return self.address, CUDA, self.index, self.ndim, *self._code, 1, self._shape, self._strides, 0

    def __dlpack__(self, *, stream):
        self.streams.append(stream)
        self._managed = Managed(*self._tensor(), None, self._deleter)
        return python.PyCapsule_New(ctypes.addressof(self._managed), b"dltensor", None)


class Versioned(Tensor):
    """The same by DLPack 1, and not to be written to."""

    major = 1

    def __dlpack__(self, *, stream, max_version):
        assert max_version[0] == 1
        self.streams.append(stream)
        self._managed = ManagedVersioned(self.major, 0, None, self._deleter, 1, *self._tensor())
        return python.PyCapsule_New(ctypes.addressof(self._managed), b"dltensor_versioned", None)


class Later(Versioned):
    """By a version that nobody here knows."""

    major = 2


class Torch:
    """The methods of PyTorch's tensors that bring one to the form that kernels take, where numpy stands for a GPU's library."""

    def __init__(self, array, dtype=None):
        self.array = array
        self.shape, self.ndim = array.shape, array.ndim
        self.dtype = dtype or f"torch.{array.dtype}"
        self.shared = []

    def __dlpack_device__(self):
        return CUDA, 0

    def __dlpack__(self, **arguments):
        assert self.array.flags.c_contiguous
        self.shared.append(Versioned(self.array))
        return self.shared[-1].__dlpack__(**arguments)

    def __getattr__(self, name):
        known = {
            "permute": lambda *axes: self.array.transpose(axes),
            "contiguous": lambda: np.ascontiguousarray(self.array),
            "detach": lambda: self.array,
            "half": lambda: self.array.astype(np.float16),
            "float": lambda: self.array.astype(np.float32),
            "byte": lambda: self.array.astype(np.uint8),
            "mul": lambda factor: self.array * np.float32(factor),
            "round": lambda: np.rint(self.array),
            "isfinite": lambda: np.isfinite(self.array),
            "all": lambda axis: self.array.all(axis),
            "logical_not": lambda: ~self.array,
            "flatten": lambda: self.array.reshape(-1),
            "nonzero": lambda: np.argwhere(self.array),
        }
        if name not in known:
            raise AttributeError(name)
        return lambda *arguments: Torch(known[name](*arguments))

    def is_floating_point(self):
        return self.array.dtype.kind == "f"

    def aminmax(self):
        return self.array.min(), self.array.max()

    def any(self):
        return self.array.any()

    def __getitem__(self, at):
        return self.array[at]


def values(array):
    """The content of a `ddu.DeviceArray`, as consumers of its capsules read it."""
    assert array.__dlpack_device__() == (CUDA, 0)
    found = []
    for version, name, structure in ((None, b"dltensor", Managed), ((1, 2), b"dltensor_versioned", ManagedVersioned)):
        array.__dlpack__(max_version=version)  # Nobody takes it.
        capsule = array.__dlpack__(stream=1, max_version=version)
        managed = structure.from_address(python.PyCapsule_GetPointer(capsule, name))
        assert python.PyCapsule_SetName(capsule, b"used_" + name) == 0
        del capsule
        if version:
            assert (managed.major, managed.minor, managed.flags) == (1, 0, 0)
        shape = managed.shape[: managed.axes]
        assert tuple(shape) == array.shape
        assert not managed.strides
        kind = {(1, 8): np.uint8, (2, 32): np.float32}[managed.code, managed.bits]
        content = ctypes.string_at(managed.data, int(np.prod(shape)) * np.dtype(kind).itemsize)
        managed.deleter(ctypes.addressof(managed))
        found.append(np.frombuffer(content, kind).reshape(shape))
    assert np.array_equal(*found, equal_nan=found[0].dtype.kind == "f")
    return found[0]


def calls(name):
    return sum(line.split(" ")[0] == name for line in Path(os.environ["DDU_STANDIN_LOG"]).read_text().splitlines())


def refused(call, words):
    with pytest.raises(ddu.Error) as error:
        call()
    assert words in str(error.value)


def features():
    """Densities and moments of features on the GPU, against the host's."""
    classes, channels, n, h, w = 3, 16, 2, 5, 7
    random = np.random.default_rng(1)
    drawn = [random.normal(size=(n, channels, h, w)).astype(np.float32) for _ in range(12)]
    labels = [random.integers(0, classes, (n, h, w)).astype(np.uint8) for _ in drawn]
    labels[0][:, 0, :2] = 255
    labels[1][:, 1, :3] = 77
    for z, label in zip(drawn, labels, strict=True):
        z += label[:, None] % classes
    host = ddu.Moments(classes, channels)
    there = ddu.Moments(classes, channels).to("cuda:0")
    assert (host.device, there.device) == ("cpu", "cuda:0")
    down, up = "cuMemcpyDtoHAsync", "cuMemcpyHtoDAsync"
    before = calls(down), calls(up)
    for i, (z, label) in enumerate(zip(drawn, labels, strict=True)):
        host.update(z, label)
        if i % 3 == 0:
            # Labels of the host.
            there.update(Torch(z), label.astype(np.int64))
        elif i % 3 == 1:
            there.update(Torch(z), Torch(label.astype(np.int64)))
        else:
            last = np.ascontiguousarray(z.transpose(0, 2, 3, 1)).astype(np.float16)
            there.update(Versioned(last), Tensor(label), layout="NHWC", non_finite="skip")
    # Labels of the host alone go up; nothing comes down until it is asked for.
    assert (calls(down) - before[0], calls(up) - before[1]) == (0, 4)
    assert there.pixels == host.pixels
    assert calls(down) > before[0]
    assert (there.count == host.count).all()
    there.update(Torch(drawn[0]), labels[0])
    host.update(drawn[0], labels[0])
    assert there.pixels == host.pixels, "it goes on after it was read"
    there.update(drawn[1], labels[1])
    host.update(drawn[1], labels[1])
    ours, theirs = there.density(), host.density()
    for c, expected in theirs.parameters().items():
        found = ours.parameters()[c]
        # Each is within 131 units of 2^-24 of the sum of magnitudes (tests/test_density.py).
        spread = np.sqrt(np.outer(np.diag(expected["covariance"]), np.diag(expected["covariance"])))
        assert (np.abs(found["mean"] - expected["mean"]) <= 2 * 128 * 2.0**-24 * (1 + classes)).all()
        assert (np.abs(found["covariance"] - expected["covariance"]) <= 2 * 131 * 2.0**-24 * spread).all()
    assert there.to("cpu").device == "cpu"
    broken = drawn[2].copy()
    broken[1, 3, 2, 4] = np.inf
    pixels = there.pixels
    refused(lambda: there.update(Torch(broken), labels[2]), 'pixel 18 of image 1; non_finite="skip"')
    assert there.pixels == pixels
    there.update(Torch(broken), labels[2], non_finite="skip")
    assert there.pixels["non_finite"] == 1
    refused(lambda: there.update(Torch(drawn[2]), labels[2][:1]), "a label for each feature")
    refused(lambda: there.update(Torch(drawn[0]), Torch(labels[0].astype(np.int64) - 100)), "give void pixels the label 255")
    refused(lambda: there.update(Torch(drawn[0]), Torch(labels[0].astype(np.float32))), "expected integers")
    refused(lambda: there.update(Tensor(drawn[0].astype(np.float16)), labels[0]), "channels last")

    density = theirs.to("cuda:0")
    assert (density.device, theirs.device) == ("cuda:0", "cpu")
    last = np.ascontiguousarray(broken.transpose(0, 2, 3, 1))
    exact = last.astype(np.float16)
    before = calls(down), calls(up)
    ways = [
        (Torch(broken), "NCHW"),
        (Torch(last), "NHWC"),
        (Torch(exact), "NHWC"),
        (Tensor(exact), "NHWC"),
        (Versioned(exact), "NHWC"),
    ]
    found = [density(z, layout=layout) for z, layout in ways]
    relative, (nearest, distance) = density.relative(Torch(broken)), density.mahalanobis(Torch(broken))
    assert (calls(down), calls(up)) == before, "nothing came to the host, nothing went there"
    assert [type(each).__name__ for each in found] == ["DeviceArray"] * len(ways)
    expected = theirs(broken)
    for each in found:
        assert each.shape == (n, h, w)
        assert np.array_equal(values(each), values(found[0]))
    # What the kernel may err by (`Precision::Exact`), and what the host's f32 may (tests/reference.py: below 0.01 here).
    finite = np.isfinite(expected)
    assert finite.sum() == finite.size - 1

    def close(array, reference):
        array, reference = values(array)[finite], reference[finite]
        assert (np.abs(array - reference) <= 1e-3 + 1e-5 * np.abs(reference) + 0.01).all()

    close(found[0], expected)
    assert np.isneginf(values(found[0])[~finite]).all()
    close(relative, theirs.relative(broken))
    close(distance, theirs.mahalanobis(broken)[1])
    assert np.array_equal(values(nearest), theirs.mahalanobis(broken)[0])
    assert values(density(Torch(exact[0]), layout="NHWC")).shape == (h, w)
    rows = values(density(Torch(exact.reshape(-1, channels))))
    assert np.array_equal(rows, values(found[0]).ravel())
    assert np.array_equal(density(broken), expected), "features of the host are evaluated there"
    refused(lambda: density(Torch(broken[:, :8])), "16 channels last")
    refused(lambda: density(Torch(broken.astype(np.float64))), "found torch.float64")
    refused(lambda: density(Torch(broken[:0])), "at least one")
    refused(lambda: density(Tensor(last), layout="NHWC"), "dense, row-major tensor of F16")
    refused(lambda: density(Torch(broken), layout="HWC"), "layout")
    refused(lambda: theirs.to("cuda"), '"cuda:N"')
    refused(lambda: theirs.to("cuda:9"), "N below")
    odd = ddu.Moments(2, 13)
    refused(lambda: odd.to("cuda:0"), "16, 32, 48")


def main():
    scores = ["energy", "max-softmax"]
    engine = ddu.load(ddu.demo_model(), device="cuda:0", scores=scores)
    random = np.random.default_rng(0)
    images = [random.integers(0, 256, (40 + 8 * (i == 2), 48, 3), np.uint8) for i in range(3)]
    expected = [engine(image) for image in images]
    tensors = [kind(image) for kind, image in zip((Tensor, Versioned, Tensor), images, strict=True)]
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
    later = Later(images[0])
    refused(lambda: engine(later), "DLPack 0 or 1")
    assert later.given_back == 1
    ways = (images[0], images[0].transpose(2, 0, 1), (images[0] / 255).astype(np.float32), images[0].transpose(2, 0, 1) / 255)
    for way in ways:
        assert np.array_equal(values(engine(Torch(way)).entropy), expected[0].entropy)
    refused(lambda: engine(Torch(images[0].astype(np.float32))), "as uint8")
    refused(lambda: engine(Torch(images[0][:3].copy())), "may be either")
    refused(lambda: engine(Tensor(images[0], strides=(1, 40, 1920))), "dense, row-major")
    refused(lambda: engine(Tensor(images[0][:, :, :2])), "[H, W, 3]")
    for wrong in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError):
            held.__dlpack__(**wrong)
    features()
    assert driver.cuCtxSetCurrent(Tensor.context()) == 0
    for address in Tensor.addresses:
        assert driver.cuMemFree_v2(ctypes.c_uint64(address)) == 0
    print("on the stand-in: all equal")


main()
