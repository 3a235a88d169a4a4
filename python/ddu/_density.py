"""Densities and moments of features, of ddu's own engine or of any other network."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from . import _ddu, _gpu
from ._arrays import Array, host, labels_of, require_features, shape_of
from ._errors import DensityWarning, InvalidError

Path = str | os.PathLike[str]
Covariance = Literal["full", "tied", "diagonal"]
Prior = Literal["empirical", "uniform"]
Layout = Literal["NCHW", "NHWC"]


def _pixels(features: Array, layout: str) -> tuple[npt.NDArray[Any], bool, tuple[int, ...]]:
    """Features as ``[N, P, D]`` without a copy where strides allow it, and the shape of a map of them."""
    found, bf16 = host(features, "features")
    known = bf16 or found.dtype in (np.float32, np.float16)
    require_features(found.shape, "bfloat16" if bf16 else str(found.dtype), layout, known=known)
    if found.ndim == 2:
        return found[np.newaxis], bf16, found.shape[:1]
    images = found if found.ndim == 4 else found[np.newaxis]
    if layout == "NCHW":
        n, d, h, w = images.shape
        pixels = images.reshape(n, d, h * w).transpose(0, 2, 1)
    else:
        n, h, w, d = images.shape
        pixels = images.reshape(n, h * w, d)
    return pixels, bf16, (n, h, w) if found.ndim == 4 else (h, w)


class Density:
    """One Gaussian per class, ready to evaluate.

    ``log q(z) = ln sum_c pi_c N(z; mu_c, Sigma_c)`` in nats: low where a feature is unlike those that were fitted.
    :func:`ddu.fit` makes one of an engine's features, :meth:`Moments.density` of any others. Pickles and
    files hold the moments, so covariance, prior and condition can be changed later.
    """

    #: On a GPU.
    _there: _ddu.DeviceDensity | None = None

    def __init__(self, density: _ddu.Density) -> None:
        self._density = density
        for line in density.warnings:
            warnings.warn(line, DensityWarning, stacklevel=3)

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        covariance: Covariance = "full",
        prior: Prior = "empirical",
        condition: float | None = None,
    ) -> Density:
        """Reads what :meth:`save` or ``ddu fit`` wrote.

        Args:
            path: the file.
            covariance: ``"full"``, one for each class; ``"tied"``, one for all; ``"diagonal"``, variances alone.
            prior: ``"empirical"``, by the pixels of each class; ``"uniform"``, 1 for each.
            condition: the greatest condition number of a covariance, at least 2; 1e4 if None: eps on the diagonal brings
                it there.
        """
        return cls(_ddu.Density.load(os.fspath(path), covariance, prior, condition))

    def with_options(
        self,
        *,
        covariance: Covariance = "full",
        prior: Prior = "empirical",
        condition: float | None = None,
    ) -> Density:
        """The same moments, evaluated otherwise; arguments as of :meth:`load`."""
        return Density(self._density.with_options(covariance, prior, condition))

    def to(self, device: str) -> Density:
        """The same density on ``"cuda:N"``, or back on the ``"cpu"``.

        On a GPU, features that lie there are evaluated there, after what their library still does to them, and scores come
        as :class:`ddu.DeviceArray`; features elsewhere are evaluated on the host. Files and pickles do not say the device.

        Raises:
            Error: a GPU, driver or kernels that are not there, and channels that the kernels do not take: they take 16, 32, 48
                .. 512.
        """
        made = Density.__new__(Density)
        made._density = self._density
        made._there = None if device == "cpu" else _ddu.DeviceDensity(self._density, device)
        return made

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:N"``."""
        return "cpu" if self._there is None else self._there.device

    def save(self, path: Path) -> None:
        """Writes the file that ``ddu infer --density`` takes. It appears whole or not at all."""
        self._density.save(os.fspath(path))

    def merge(self, *others: Density) -> Density:
        """This one and fits of other images with the same model, folded in one after another."""
        return Density(self._density.merged([other._density for other in others]))

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return self._density.classes

    @property
    def channels(self) -> int:
        """D, the channels of a feature."""
        return self._density.channels

    @property
    def count(self) -> npt.NDArray[np.int64]:
        """Fitted pixels of each class, ``[C]``."""
        return np.array(self._density.count, dtype=np.int64)

    @property
    def pixels(self) -> dict[str, Any]:
        """Pixels that were ``fitted``, ``void``, ``non_finite``, or of ``unknown`` labels (by label)."""
        fitted, void, non_finite, unknown = self._density.pixels
        return {"fitted": fitted, "void": void, "non_finite": non_finite, "unknown": dict(unknown)}

    @property
    def images(self) -> int:
        """Images of the fit; 0 for features that came without images."""
        return self._density.images

    @property
    def resize(self) -> int | None:
        """Shorter side that images were scaled to in the fit; None: they were not."""
        return self._density.resize

    @property
    def model_sha256(self) -> str:
        """Of the model whose features were fitted."""
        return self._density.model_sha256

    @property
    def covariance(self) -> str:
        """``"full"``, ``"tied"`` or ``"diagonal"``."""
        return self._density.covariance

    @property
    def prior(self) -> str:
        """``"empirical"`` or ``"uniform"``."""
        return self._density.prior

    @property
    def conditions(self) -> dict[int, tuple[float, float]]:
        """Condition number of each fitted class's covariance, before and after eps."""
        return {index: (before, after) for index, before, after in self._density.conditions()}

    def parameters(self) -> dict[int, dict[str, Any]]:
        """By class index: ``mean [D]``, ``covariance [D, D]`` with eps on its diagonal, ``log_prior``, ``eps``.

        For comparisons with other implementations; of a density of full covariances.
        """
        names = ("mean", "covariance", "log_prior", "eps")
        return {index: dict(zip(names, values, strict=True)) for index, values in self._density.parameters()}

    def __call__(self, features: Array, *, layout: Layout = "NCHW") -> Any:
        """log q(z) of each feature in nats; -inf for one that float16 cannot hold.

        Args:
            features: ``[N, D, H, W]``, ``[D, H, W]`` (or channels last, by ``layout``) or ``[P, D]``, of float32,
                float16 or bfloat16: numpy, or anything with ``__dlpack__``. What lies on another GPU than :meth:`to` named is
                copied to the host. Features are rounded to float16.
            layout: where the channels are, if there are three axes or four.

        Returns:
            ``[N, H, W]``, ``[H, W]`` or ``[P]``: a numpy array, or where the features lie on the density's GPU a
            :class:`ddu.DeviceArray`.
        """
        return self._log_density(features, layout, relative=False)

    def relative(self, features: Array, *, layout: Layout = "NCHW") -> Any:
        """log q(z) less the log-density of one Gaussian over all classes, in nats (Ren et al. 2021)."""
        return self._log_density(features, layout, relative=True)

    def _log_density(self, features: Array, layout: Layout, *, relative: bool) -> Any:
        if self._there is not None and _gpu.lies_on(features, self.device):
            rows, shape = _gpu.features(features, layout)
            return self._there.log_density(rows, list(shape), relative)
        pixels, bf16, shape = _pixels(features, layout)
        return self._density.log_density(pixels, bf16, relative).reshape(shape)

    def mahalanobis(self, features: Array, *, layout: Layout = "NCHW") -> tuple[Any, Any]:
        """The class of the least Mahalanobis distance (255: a feature that is not finite), and that distance.

        ``sqrt((z - mu_c)^T Sigma_c^-1 (z - mu_c))`` as Lee et al. 2018 have it but for the root; their tied
        covariance is ``covariance="tied"``.
        """
        if self._there is not None and _gpu.lies_on(features, self.device):
            rows, shape = _gpu.features(features, layout)
            return self._there.nearest(rows, list(shape))
        pixels, bf16, shape = _pixels(features, layout)
        nearest, distance = self._density.nearest(pixels, bf16)
        return nearest.reshape(shape), distance.reshape(shape)

    def __repr__(self) -> str:
        return repr(self._density)

    def __reduce__(self) -> tuple[Any, ...]:
        return Density, (self._density,)


class Moments:
    """Count, mean and scatter of the features of each class, in float64, for a network that ddu cannot import.

    >>> moments = ddu.Moments(classes=21, channels=256)
    >>> for images, labels in loader:
    ...     moments.update(features_of(images), labels)
    >>> density = moments.density()
    >>> density(features_of(image))

    Features are rounded to float16 first, as everywhere in ddu. Each image is folded in by itself, so batches
    do not show in the bits; the order of images does, in the last ones.
    """

    #: Of :meth:`to`.
    _device = "cpu"
    #: On that GPU, with all that was folded in; None after it was read back.
    _there: _ddu.DeviceMoments | None = None

    def __init__(self, classes: int | Sequence[str], channels: int) -> None:
        """No features yet; ``classes`` is their number or their names."""
        names = [f"class {c}" for c in range(classes)] if isinstance(classes, int) else list(classes)
        self._host = _ddu.Moments(names, channels)

    @classmethod
    def _of(cls, moments: _ddu.Moments) -> Moments:
        made = cls.__new__(cls)
        made._host = moments
        return made

    @property
    def _moments(self) -> _ddu.Moments:
        """On the host, with all that was folded in."""
        if self._there is not None:
            self._host, self._there = self._there.moments(), None
        return self._host

    def to(self, device: str) -> Moments:
        """These moments on ``"cuda:N"``, or back on the ``"cpu"``.

        On a GPU, features that lie there are folded in there, after what their library still does to them; they come to the host
        when something else is asked of them. The sums are those of another order and so differ in their last bits. Files
        and pickles do not say the device.

        Raises:
            Error: as of :meth:`Density.to`.
        """
        made = Moments._of(self._moments)
        if device != "cpu":
            made._there, made._device = _ddu.DeviceMoments(made._host, device), device
        return made

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:N"``."""
        return self._device

    @classmethod
    def load(cls, path: Path) -> Moments:
        """Reads what :meth:`save` wrote."""
        return cls._of(_ddu.Moments.load(os.fspath(path)))

    def save(self, path: Path) -> None:
        """Writes a density file, which :meth:`Density.load` reads too."""
        self._moments.save(os.fspath(path))

    def update(
        self,
        features: Array,
        labels: Array,
        *,
        layout: Layout = "NCHW",
        non_finite: Literal["raise", "skip"] = "raise",
    ) -> Moments:
        """Folds in features and the class of each.

        Args:
            features: as :meth:`Density.__call__` takes them.
            labels: class indices ``[N, H, W]``, ``[H, W]`` or ``[P]``, of the features' grid (:func:`ddu.sample_labels`
                brings a mask to it); 255 is void, other labels beyond the classes are counted and left out.
            layout: where the channels are.
            non_finite: what to do about features that float16 cannot hold.
        """
        if non_finite not in ("raise", "skip"):
            raise InvalidError(f'non_finite: expected "raise" or "skip", found {non_finite!r}')
        if _gpu.lies_on(features, self._device):
            self._update_there(features, labels, layout, non_finite)
            return self
        pixels, bf16, shape = _pixels(features, layout)
        found = labels_of(labels)
        _require_labels(found.shape, shape)
        flat = np.ascontiguousarray(found).reshape(pixels.shape[:2])
        self._moments.update(pixels, bf16, flat, non_finite == "skip")
        return self

    def _update_there(self, features: Array, labels: Array, layout: Layout, non_finite: str) -> None:
        rows, shape = _gpu.features(features, layout)
        images = shape[0] if len(shape) == 3 else 1
        if non_finite == "raise":
            _gpu.require_finite(rows, images)
        on_gpu = _gpu.lies_on(labels, self._device)
        found = _gpu.labels(labels) if on_gpu else labels_of(labels)
        _require_labels(tuple(found.shape), shape)
        if self._there is None:
            self._there = _ddu.DeviceMoments(self._host, self._device)
        self._there.update(rows, found if on_gpu else np.ascontiguousarray(found).reshape(1, -1), images)

    def __add__(self, other: Moments) -> Moments:
        """The moments of both; Chan, Golub and LeVeque 1979."""
        if not isinstance(other, Moments):
            return NotImplemented
        return Moments._of(self._moments.add(other._moments))

    @property
    def classes(self) -> list[str]:
        """Names of the classes."""
        return self._moments.names

    @property
    def channels(self) -> int:
        """D, the channels of a feature."""
        return self._moments.channels

    @property
    def count(self) -> npt.NDArray[np.int64]:
        """Pixels of each class, ``[C]``."""
        return np.array(self._moments.count, dtype=np.int64)

    @property
    def pixels(self) -> dict[str, int]:
        """Pixels that were ``fitted``, ``void``, ``non_finite``, or of ``unknown`` labels."""
        return dict(zip(("fitted", "void", "non_finite", "unknown"), self._moments.pixels, strict=True))

    def density(
        self,
        *,
        covariance: Covariance = "full",
        prior: Prior = "empirical",
        condition: float | None = None,
    ) -> Density:
        """The Gaussians; arguments as of :meth:`Density.load`.

        Raises:
            InvalidError: no class has two features.
        """
        return Density(self._moments.density(covariance, prior, condition))

    def __repr__(self) -> str:
        fitted = self.pixels["fitted"]
        return f"<ddu.Moments of {fitted} pixels, {len(self.classes)} classes, {self.channels} channels>"

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (self._moments.to_bytes(),)


def _require_labels(found: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if found != shape:
        raise InvalidError(
            f"labels: expected {list(shape)}, a label for each feature, found {list(found)}; "
            "ddu.sample_labels(mask, (H, W)) brings a mask to the features' grid"
        )


def _unpickle(content: bytes) -> Moments:
    return Moments._of(_ddu.Moments._from_bytes(content))


def sample_labels(mask: Array, grid: tuple[int, int], *, align_corners: bool = False) -> npt.NDArray[np.uint8]:
    """A mask's labels on a grid of features: the pixel under each cell's middle.

    Args:
        mask: class indices ``[H, W]``, 255 for void.
        grid: height and width of the features.
        align_corners: the grid's outer cells lie on the mask's outer pixels, as networks with
            ``interpolate(..., align_corners=True)`` put them.
    """
    found = labels_of(mask, "mask")
    if found.ndim != 2 or found.size == 0:
        raise InvalidError(f"mask: expected [H, W], found {shape_of(found)}")
    if min(grid) < 1:
        raise InvalidError(f"grid: expected height and width of at least 1, found {grid}")
    return _ddu.sample_labels(found, (int(grid[0]), int(grid[1])), align_corners)
