"""Labelled datasets: fitting a density to one, measuring scores on one."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from . import _ddu
from ._arrays import labels_of, shape_of
from ._density import Density, Path
from ._engine import Engine
from ._errors import Error, InvalidError, SkippedWarning
from ._images import ImageLike, pixels_of
from ._progress import Bar
from ._report import Report

#: The root of a VOC folder (with ``split``), a folder of images (with ``masks``), or (image, mask) pairs of paths or
#: arrays.
DatasetLike = Path | Iterable[tuple[ImageLike, Any]]


def dataset_of(dataset: DatasetLike, split: str | None, masks: Path | None) -> _ddu.Dataset | None:
    """The files of a dataset; None for pairs that are not all files."""
    if isinstance(dataset, (str, os.PathLike)):
        if (split is None) == (masks is None):
            raise InvalidError(
                "dataset: expected split=NAME for a VOC folder or masks=FOLDER for a folder of images, found "
                + ("neither" if split is None else "both")
            )
        if split is not None:
            return _ddu.Dataset.voc(os.fspath(dataset), split)
        assert masks is not None
        return _ddu.Dataset.folders(os.fspath(dataset), os.fspath(masks))
    if split is not None or masks is not None:
        raise InvalidError("dataset: expected a folder with split or masks, found pairs")
    return None


def _warn(reason: str) -> None:
    warnings.warn(f"skipped: {reason}", SkippedWarning, stacklevel=5)


class Labelled:
    """The labelled images of a dataset, each read while the one before it is worked on.

    What cannot be used is left out, and why given to ``skipped``: a warning, as the command line has it.
    """

    def __init__(
        self,
        dataset: DatasetLike,
        split: str | None = None,
        masks: Path | None = None,
        resize: int | None = None,
        skipped: Callable[[str], None] = _warn,
    ) -> None:
        self._skipped = skipped
        self._files = dataset_of(dataset, split, masks)
        self._pairs = dataset
        self._resize = resize
        self.classes = self._files.classes if self._files is not None else None

    def __len__(self) -> int:
        if self._files is not None:
            return len(self._files)
        length = getattr(self._pairs, "__len__", None)
        return 0 if length is None else int(length())

    def _reads(self) -> Iterator[Any]:
        if self._files is not None:
            files = self._files
            for index in range(len(files)):
                yield lambda index=index: files.read(index, self._resize)
            return
        assert not isinstance(self._pairs, (str, os.PathLike))
        for index, pair in enumerate(self._pairs):
            yield lambda index=index, pair=pair: self._pair(index, pair)

    def _pair(self, index: int, pair: Any) -> _ddu.Labelled:
        try:
            image, mask = pair
        except (TypeError, ValueError):
            raise InvalidError(f"pair {index}: expected (image, mask), found {type(pair).__name__}") from None
        paths = [isinstance(part, (str, os.PathLike)) for part in (image, mask)]
        if all(paths):
            return _ddu.Dataset.pairs([(os.fspath(image), os.fspath(mask))]).read(0, self._resize)
        if any(paths):
            raise InvalidError(f"pair {index}: expected two paths or two arrays, found one of each")
        labels = labels_of(mask, f"mask {index}")
        if labels.ndim != 2:
            raise InvalidError(f"mask {index}: expected [H, W], found {shape_of(labels)}")
        return _ddu.Labelled.of(f"image {index}", pixels_of(image), np.ascontiguousarray(labels), self._resize)

    def __iter__(self) -> Iterator[_ddu.Labelled]:
        with ThreadPoolExecutor(1) as reader:
            ahead = None
            for read in self._reads():
                following = reader.submit(read)
                if ahead is not None:
                    yield from self._finish(ahead)
                ahead = following
            if ahead is not None:
                yield from self._finish(ahead)

    def _finish(self, reading: Any) -> Iterator[_ddu.Labelled]:
        try:
            yield reading.result()
        except Error as error:
            self._skipped(str(error))

    def fold_into(self, fit: _ddu.Fit, done: Callable[[], None] = lambda: None) -> None:
        """Adds all of them to a fit, each once."""
        for labelled in self:
            if not fit.add(labelled):
                self._skipped(f"{labelled.name}: the pixels of an image that is in the fit already")
            done()


def fit(
    engine: Engine,
    dataset: DatasetLike,
    *,
    split: str | None = None,
    masks: Path | None = None,
    class_map: Sequence[str] = (),
    resize: int | None = None,
    weight: Literal["confidence"] | None = None,
    progress: bool | None = None,
) -> Density:
    """Fits a density to the features of labelled images, those that the network was trained on.

    The file that :meth:`Density.save` writes is, byte for byte, that of ``ddu fit``.

    Args:
        engine: of :func:`load`.
        dataset: the root of a Pascal VOC folder, with ``split``; a folder of images, with ``masks``; or (image, mask)
            pairs: two paths, or an image ``[H, W, 3]`` and class indices ``[H, W]`` (255: void).
        split: list of the VOC folder: ``"train"``, ``"val"`` ..
        masks: folder of PNGs of the images' relative paths and stems.
        class_map: ``"FROM=TO"``: the dataset's class FROM is the model's class TO, each an index or a name; TO may be
            ``void``.
        resize: scale the shorter side of the images to so many pixels first.
        weight: ``"confidence"`` also stores moments weighted by how sure the network is of the true label.
        progress: a bar (tqdm); by default where somebody looks.

    Raises:
        InvalidError: no pixel could be fitted. Pairs that cannot be used are skipped with a
            :class:`SkippedWarning`.
    """
    pairs = Labelled(dataset, split, masks, resize)
    making = _ddu.Fit(engine._engine, pairs.classes, list(class_map), resize, weight)
    with Bar(len(pairs) or None, progress) as bar:
        pairs.fold_into(making, bar.advance)
    return Density(making.density())


def evaluate(
    engine: Engine,
    dataset: DatasetLike,
    *,
    split: str | None = None,
    masks: Path | None = None,
    class_map: Sequence[str] = (),
    ood_classes: Sequence[str | int] = (),
    resize: int | None = None,
    void_as_inaccurate: bool = False,
    patches: Sequence[int] = (2, 4),
    progress: bool | None = None,
) -> Report:
    """Measures segmentation and every score that the engine can compute on labelled images.

    Figures are those of ``ddu eval``, pooled over all pixels, in memory that does not grow with the number of
    images.

    Args:
        engine: of :func:`load`; with a density, its scores are measured too.
        dataset: as of :func:`fit`, and so ``split``, ``masks`` and ``class_map``.
        split: as of :func:`fit`.
        masks: as of :func:`fit`.
        class_map: as of :func:`fit`.
        ood_classes: classes of the dataset, by name or index, that should be found as unknown; by default every label
            that the model has no class for.
        resize: shorter side in pixels; by default that of the density's fit.
        void_as_inaccurate: count void pixels as inaccurate in PAvPU and the risk-coverage curve.
        patches: widths of the patches of PAvPU in addition to single pixels.
        progress: a bar (tqdm); by default where somebody looks.
    """
    if resize is None and engine.density is not None:
        resize = engine.density.resize
    pairs = Labelled(dataset, split, masks, resize)
    unknown = [str(name) for name in ood_classes]
    evaluation = _ddu.Evaluation(engine._engine, pairs.classes, list(class_map), unknown, void_as_inaccurate, list(patches))
    with contextlib.closing(evaluation), Bar(len(pairs) or None, progress) as bar:
        for labelled in pairs:
            evaluation.add(labelled)
            bar.advance()
    return Report(json.loads(evaluation.results()))
