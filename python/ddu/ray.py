"""Fits and maps on many machines, with Ray (``pip install ddu[ray]``).

Images are read where they are worked on, from paths that every machine sees; what travels are paths, moments and maps.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
import ray
import ray.data

from . import _ddu
from ._dataset import DatasetLike, dataset_of
from ._density import Density, Path
from ._engine import Engine, load
from ._errors import Error, InvalidError, SkippedWarning

#: Images of a shard. It decides the order in which float64 sums are taken, and so the last bits of a fit.
SHARD = 256


def fit(
    dataset: DatasetLike,
    model: _ddu.Model | Path,
    *,
    split: str | None = None,
    masks: Path | None = None,
    class_map: Sequence[str] = (),
    resize: int | None = None,
    shard: int = SHARD,
    workers: int | None = None,
    cpus_per_worker: int = 1,
    gpus_per_worker: float = 0,
) -> Density:
    """:func:`ddu.fit` by workers of a Ray cluster.

    Consecutive images make shards of ``shard``; each is fitted by one worker, image after image, and neighbouring
    shards are joined pair by pair, neighbouring pairs again, and so on. This tree depends on the list of images and on
    ``shard`` alone: any number of workers, in any order, some of them killed and their shards done again, give the
    same bytes. Those of :func:`ddu.fit` have the same moments but for the rounding of float64 sums; with one
    shard they are the same bytes.

    The driver holds at most about two shards for each level of the tree and those that came out of turn.

    Args:
        dataset: as of :func:`ddu.fit`, of files that every worker sees.
        model: of :func:`ddu.convert`, or a file that every worker sees.
        split: as of :func:`ddu.fit`.
        masks: as of :func:`ddu.fit`.
        class_map: as of :func:`ddu.fit`.
        resize: as of :func:`ddu.fit`.
        shard: images of a shard.
        workers: how many; by default as many as the cluster has CPUs (or GPUs, where one has some) for.
        cpus_per_worker: also the threads of each.
        gpus_per_worker: 1 runs each on a GPU of its own.

    Raises:
        InvalidError: no pixel could be fitted, or an image is in two shards. Pairs that cannot be used are skipped with
            a :class:`ddu.SkippedWarning`.
    """
    if shard < 1:
        raise InvalidError(f"shard: expected at least 1 image, found {shard}")
    files = dataset_of(dataset, split, masks) or _paths(dataset)
    paths = [files.paths(index)[1:] for index in range(len(files))]
    shards = [
        {"shard": number, "images": [a for a, _ in part], "masks": [b for _, b in part]}
        for number, part in enumerate(paths[at : at + shard] for at in range(0, len(paths), shard))
    ]
    if not shards:
        raise InvalidError("dataset: expected at least one pair, found none")
    made = ray.data.from_items(shards, override_num_blocks=len(shards)).map_batches(
        _Fitter,
        fn_constructor_kwargs={
            "model": model,
            "classes": files.classes,
            "class_map": list(class_map),
            "resize": resize,
            "cpus": cpus_per_worker,
            "gpus": gpus_per_worker,
        },
        batch_size=1,
        **_resources(min(_workers(workers, cpus_per_worker, gpus_per_worker), len(shards)), cpus_per_worker, gpus_per_worker),
    )
    tree = Tree(len(shards))
    for row in made.iter_rows():
        number = int(row["shard"])
        for line in row["skipped"]:
            warnings.warn(f"skipped: {line}", SkippedWarning, stacklevel=2)
        tree.add(number, _ddu.Shard.from_bytes(f"shard {number}", row["density"]))
    return Density(tree.root().density())


class Tree:
    """Joins the shards of a list pair by pair, whatever order they come in."""

    def __init__(self, leaves: int) -> None:
        self._counts = [leaves]
        while self._counts[-1] > 1:
            self._counts.append(-(-self._counts[-1] // 2))
        self._waiting: dict[tuple[int, int], _ddu.Shard] = {}

    def add(self, number: int, shard: _ddu.Shard) -> None:
        """Takes in the shard of this number; one that came before is the same."""
        level = 0
        while level + 1 < len(self._counts):
            sibling = number ^ 1
            if sibling < self._counts[level]:
                other = self._waiting.pop((level, sibling), None)
                if other is None:
                    break
                left, right = (shard, other) if number < sibling else (other, shard)
                left.merge(f"shards {max(number, sibling) << level} and those after it", right)
                shard = left
            level, number = level + 1, number // 2
        self._waiting[level, number] = shard

    def root(self) -> _ddu.Shard:
        """All of them, once they are in."""
        top = (len(self._counts) - 1, 0)
        if set(self._waiting) != {top}:
            raise InvalidError(f"fit: expected every shard, found {len(self._waiting)} parts of the tree")
        return self._waiting[top]


class _Fitter:
    """Fits shards."""

    def __init__(
        self,
        model: Any,
        classes: list[str] | None,
        class_map: list[str],
        resize: int | None,
        cpus: int,
        gpus: float,
    ) -> None:
        self._engine = _engine(model, None, None, cpus, gpus)
        self._fit = (classes, class_map, resize, None)
        self._resize = resize

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        densities, skipped = [], []
        for images, masks in zip(batch["images"], batch["masks"], strict=True):
            fit = _ddu.Fit(self._engine._engine, *self._fit)
            files = _ddu.Dataset.pairs(list(zip(map(str, images), map(str, masks), strict=True)))
            lines = []
            for index in range(len(files)):
                try:
                    labelled = files.read(index, self._resize)
                    if not fit.add(labelled):
                        lines.append(f"{labelled.name}: the pixels of an image that is in the fit already")
                except Error as error:
                    lines.append(str(error))
            densities.append(fit.shard().to_bytes())
            skipped.append(lines)
        return {"shard": batch["shard"], "density": _column(densities), "skipped": _column(skipped)}


def infer(
    dataset: Any,
    model: _ddu.Model | Path,
    density: Density | Path | None = None,
    *,
    scores: Sequence[str] | None = None,
    resize: int | None = None,
    batch: int = 16,
    workers: int | None = None,
    cpus_per_worker: int = 1,
    gpus_per_worker: float = 0,
) -> Any:
    """Maps of every image, as a Ray Dataset: nothing runs until it is read, and memory stays bounded.

    Args:
        dataset: paths, or a Ray Dataset with a column ``path`` or ``image`` (``[H, W, 3]`` of uint8).
        model: as of :func:`ddu.load`.
        density: as of :func:`ddu.load`.
        scores: as of :func:`ddu.load`.
        resize: shorter side in pixels.
        batch: rows that a worker takes at a time.
        workers: as of :func:`fit`, and so ``cpus_per_worker`` and ``gpus_per_worker``.
        cpus_per_worker: as of :func:`fit`.
        gpus_per_worker: as of :func:`fit`.

    Returns:
        A Ray Dataset: the rows without ``image``, with ``label`` and a column for each score.
    """
    if not isinstance(dataset, ray.data.Dataset):
        dataset = ray.data.from_items([{"path": os.fspath(path)} for path in dataset])
    return dataset.map_batches(
        _Mapper,
        fn_constructor_kwargs={
            "model": model,
            "density": density,
            "scores": scores,
            "resize": resize,
            "cpus": cpus_per_worker,
            "gpus": gpus_per_worker,
        },
        batch_size=batch,
        **_resources(_workers(workers, cpus_per_worker, gpus_per_worker), cpus_per_worker, gpus_per_worker),
    )


class _Mapper:
    """Makes maps of rows."""

    def __init__(self, model: Any, density: Any, scores: Any, resize: int | None, cpus: int, gpus: float) -> None:
        self._engine = _engine(model, density, scores, cpus, gpus)
        self._resize = resize

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        if "image" not in batch and "path" not in batch:
            raise InvalidError(f"dataset: expected a column image or path, found {', '.join(batch)}")
        images = batch["image"] if "image" in batch else map(str, batch["path"])
        maps = self._engine(list(images), resize=self._resize)
        rows = {name: column for name, column in batch.items() if name != "image"}
        rows["label"] = _column([one.label for one in maps])
        for name in self._engine.scores:
            rows[name] = _column([one.score(name) for one in maps])
        return rows


def _engine(model: Any, density: Any, scores: Any, cpus: int, gpus: float) -> Engine:
    # Before the first use, which starts the threads of the process.
    os.environ["RAYON_NUM_THREADS"] = str(cpus)
    # Ray shows a worker its own GPUs alone.
    device: Literal["cpu", "cuda:0"] = "cuda:0" if gpus > 0 else "cpu"
    return load(model, density, device, scores=scores)


def _workers(workers: int | None, cpus: int, gpus: float) -> int:
    if workers is None:
        there = ray.cluster_resources()
        workers = int(there.get("GPU", 0) // gpus if gpus > 0 else there.get("CPU", 1) // cpus)
    if workers < 1:
        raise InvalidError(f"workers: expected at least 1, found {workers}")
    return workers


def _resources(workers: int, cpus: int, gpus: float) -> dict[str, Any]:
    # A worker that dies comes back, and what it was at is done again.
    return {
        "compute": ray.data.ActorPoolStrategy(size=workers),
        "num_cpus": cpus,
        "num_gpus": gpus,
        "max_restarts": -1,
        "max_task_retries": -1,
        "batch_format": "numpy",
    }


def _paths(dataset: DatasetLike) -> _ddu.Dataset:
    if isinstance(dataset, (str, os.PathLike)) or not isinstance(dataset, Iterable):
        raise InvalidError(f"dataset: expected a folder or pairs of paths, found {type(dataset).__name__}")
    pairs = []
    for index, pair in enumerate(dataset):
        if not (isinstance(pair, (tuple, list)) and len(pair) == 2 and all(isinstance(p, (str, os.PathLike)) for p in pair)):
            raise InvalidError(f"pair {index}: expected two paths, which every worker sees, found {type(pair).__name__}")
        pairs.append((os.fspath(pair[0]), os.fspath(pair[1])))
    return _ddu.Dataset.pairs(pairs)


def _column(values: list[Any]) -> Any:
    """A column of Ray: one array where shapes agree, else one of objects."""
    if values and isinstance(values[0], np.ndarray) and len({value.shape for value in values}) == 1:
        return np.stack(values)
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
