"""Fits and maps on many machines, with Ray (``pip install ddu[ray]``).

Images are read where they are worked on, from paths that every machine sees, or come as rows of a Ray Dataset; what
travels besides are moments and maps.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow
import ray
import ray.data

from . import _ddu
from ._dataset import DatasetLike, Labelled, dataset_of
from ._density import Density, Path
from ._engine import Engine, load
from ._errors import InvalidError, SkippedWarning

#: Images of a shard. It decides the order in which float64 sums are taken, and so the last bits of a fit.
SHARD = 256


def fit(
    dataset: DatasetLike | ray.data.Dataset,
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

    Shards come to the driver in the order of the list; it holds at most one for each level of the tree.

    Args:
        dataset: as of :func:`ddu.fit`, of files that every worker sees; or a Ray Dataset with the columns ``image`` and
            ``mask``, both paths or both arrays (``[H, W, 3]`` of uint8, class indices ``[H, W]``). The order of its rows
            is that of the list: one that shuffles gives other last bits each time.
        model: of :func:`convert`, or a file that every worker sees.
        split: as of :func:`ddu.fit`.
        masks: as of :func:`ddu.fit`.
        class_map: as of :func:`ddu.fit`.
        resize: as of :func:`ddu.fit`.
        shard: images of a shard.
        workers: how many; by default as many as the cluster has CPUs (or GPUs, where one has some) for. Beside a Ray
            Dataset at most so many that a CPU is left for its own tasks.
        cpus_per_worker: also the threads of each.
        gpus_per_worker: 1 runs each on a GPU of its own.

    Raises:
        InvalidError: no pixel could be fitted, or an image is in two shards. Pairs that cannot be used are skipped with
            a :class:`ddu.SkippedWarning`.
    """
    if shard < 1:
        raise InvalidError(f"shard: expected at least 1 image, found {shard}")
    rows, classes = _rows(dataset, split, masks, shard)
    reads = isinstance(dataset, ray.data.Dataset)
    made = rows.map_batches(
        _Fitter,
        fn_constructor_kwargs={
            "model": model,
            "classes": classes,
            "class_map": list(class_map),
            "resize": resize,
            "cpus": cpus_per_worker,
            "gpus": gpus_per_worker,
        },
        batch_size=shard,
        **_resources(_workers(workers, cpus_per_worker, gpus_per_worker, reads), cpus_per_worker, gpus_per_worker),
    )
    tree, images = Tree(), 0
    with _in_order(made):
        for row in made.iter_rows():
            for line in row["skipped"]:
                warnings.warn(f"skipped: {line}", SkippedWarning, stacklevel=2)
            if images != tree.leaves * shard:
                raise InvalidError(
                    f"dataset: expected shards of {shard} images, found {images} in the first {tree.leaves} (Ray's)"
                )
            images += int(row["images"])
            tree.add(_ddu.Shard.from_bytes(f"shard {tree.leaves}", row["density"]))
    return Density(tree.root().density())


def _rows(dataset: Any, split: str | None, masks: Path | None, shard: int) -> tuple[ray.data.Dataset, list[str] | None]:
    """Rows ``image`` and ``mask`` in blocks of a shard, and the names of the dataset's labels."""
    if isinstance(dataset, ray.data.Dataset):
        if split is not None or masks is not None:
            raise InvalidError("dataset: expected a folder with split or masks, found a Ray Dataset")
        return dataset.repartition(target_num_rows_per_block=shard, strict=True), None
    files = dataset_of(dataset, split, masks) or _paths(dataset)
    if len(files) == 0:
        raise InvalidError("dataset: expected at least one pair, found none")
    paths = [files.paths(index)[1:] for index in range(len(files))]
    parts = [paths[at : at + shard] for at in range(0, len(paths), shard)]
    tables = [pyarrow.table({"image": [str(a) for a, _ in part], "mask": [str(b) for _, b in part]}) for part in parts]
    return ray.data.from_arrow(tables), files.classes


@contextlib.contextmanager
def _in_order(dataset: ray.data.Dataset) -> Iterator[None]:
    """While it lasts, rows of the dataset come in the order of those that they were made of."""
    options = dataset.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        yield
    finally:
        options.preserve_order = before


class Tree:
    """Joins the shards of a list, which come in its order, pair by pair, pairs of pairs, and so on."""

    def __init__(self) -> None:
        #: How many came.
        self.leaves = 0
        #: Of what waits for its neighbour: how many shards it joins, a power of two, each less than the one before.
        self._waiting: list[tuple[int, _ddu.Shard]] = []

    def add(self, shard: _ddu.Shard) -> None:
        """Takes in the next shard."""
        self.leaves += 1
        self._waiting.append((1, shard))
        while len(self._waiting) > 1 and self._waiting[-1][0] == self._waiting[-2][0]:
            self._join()

    def _join(self) -> None:
        right, shard = self._waiting.pop()
        left, joined = self._waiting.pop()
        joined.merge(f"shard {self.leaves - right} and those after it", shard)
        self._waiting.append((left + right, joined))

    def root(self) -> _ddu.Shard:
        """All that came."""
        if not self._waiting:
            raise InvalidError("dataset: expected at least one pair, found none")
        while len(self._waiting) > 1:
            self._join()
        return self._waiting[0][1]


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
        if "image" not in batch or "mask" not in batch:
            raise InvalidError(f"dataset: expected the columns image and mask, found {', '.join(batch)}")
        fit, skipped = _ddu.Fit(self._engine._engine, *self._fit), list[str]()
        pairs = list(zip(batch["image"], batch["mask"], strict=True))
        Labelled(pairs, resize=self._resize, skipped=skipped.append).fold_into(fit)
        return {"images": [len(pairs)], "density": _column([fit.shard().to_bytes()]), "skipped": _column([skipped])}


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
        dataset: paths, or a Ray Dataset with a column ``path`` or ``image`` (arrays as a call of :class:`ddu.Engine` takes them).
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
    reads = isinstance(dataset, ray.data.Dataset)
    if not reads:
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
        **_resources(_workers(workers, cpus_per_worker, gpus_per_worker, reads), cpus_per_worker, gpus_per_worker),
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
    return load(model, density, _device(gpus), scores=scores)


def _device(gpus: float) -> str:
    """The GPU that Ray gave this worker, by its place among those that CUDA shows the process."""
    if gpus <= 0:
        return "cpu"
    given = ray.get_runtime_context().get_accelerator_ids()["GPU"][0]
    shown = os.environ.get("CUDA_VISIBLE_DEVICES")
    # Ray sets the variable to those that it gave, unless it was told to leave it alone.
    if shown is None:
        return f"cuda:{given}"
    if given not in shown.split(","):
        raise InvalidError(f"CUDA_VISIBLE_DEVICES: expected GPU {given}, which Ray gave this worker, among them, found {shown}")
    return f"cuda:{shown.split(',').index(given)}"


def _workers(workers: int | None, cpus: int, gpus: float, reads: bool) -> int:
    there = ray.cluster_resources()
    if workers is None:
        workers = int(there.get("GPU", 0) // gpus if gpus > 0 else there.get("CPU", 1) // cpus)
    if reads:
        # Workers keep their CPUs until the end: with all of them taken, the tasks that feed them would never run.
        room = int((there.get("CPU", 1) - 1) // cpus)
        if room < 1:
            found = f"{there.get('CPU', 0):g} of the cluster"
            raise InvalidError(
                f"cpus_per_worker: expected a CPU beside the {cpus} of a worker, for the dataset's tasks, found {found}"
            )
        workers = min(workers, room)
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
