"""The engine in Rust (python/src). Everything but Maps and Model is wrapped by the modules beside this."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

__version__: str

class Model:
    """The weights of a network and what they mean."""

    @staticmethod
    def load(path: str) -> Model:
        """Reads what `save` or `ddu convert` wrote."""
    def save(self, path: str) -> None:
        """Writes the file that `ddu infer --model` takes. It appears whole or not at all."""
    @property
    def classes(self) -> list[str]:
        """Names of the classes, in index order."""
    @property
    def channels(self) -> int:
        """D, the channels of a feature."""
    @property
    def family(self) -> str:
        """Whose code trained it."""
    @property
    def backbone(self) -> str:
        """`"resnet18"` to `"resnet101"`."""
    @property
    def sha256(self) -> str:
        """Of configuration and weights, in hex; a density refers to its model by it."""
    @property
    def assumed(self) -> list[str]:
        """What the checkpoint did not state."""

class Maps:
    """Class and scores of every pixel of an image, arrays `[H, W]` that own the engine's memory: nothing was copied."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
    @property
    def label(self) -> npt.NDArray[np.uint8]:
        """Class indices."""
    @property
    def entropy(self) -> npt.NDArray[np.float32]:
        """Softmax entropy in nats, 0 to ln C; NaN where the network overflowed."""
    @property
    def density(self) -> npt.NDArray[np.float32]:
        """log q(z) in nats; low: unfamiliar; -inf where the network overflowed."""
    def score(self, name: str) -> npt.NDArray[np.float32]:
        """A score that was computed, by its name (`ddu.score_names`)."""
    @property
    def scores(self) -> list[str]:
        """Names of those that were."""
    @property
    def non_finite(self) -> int:
        """Cells of the feature grid with a feature that is not finite; their density is -inf."""
    @property
    def network_s(self) -> float:
        """Seconds in preprocessing and network."""
    @property
    def maps_s(self) -> float:
        """Seconds from the network's output to the maps."""

class DeviceArray:
    """An array on a GPU, for any library with DLPack: `torch.from_dlpack(array)`. What wrote to it has ended."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents; of a map height and width."""
    @property
    def dtype(self) -> str:
        """`"uint8"` or `"float32"`."""
    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any: ...
    def __dlpack_device__(self) -> tuple[int, int]: ...

class DeviceMaps:
    """As `Maps`, of an image that lay on the engine's GPU: its arrays lie there too."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
    @property
    def label(self) -> DeviceArray:
        """Class indices."""
    @property
    def entropy(self) -> DeviceArray:
        """Softmax entropy in nats, 0 to ln C; NaN where the network overflowed."""
    @property
    def density(self) -> DeviceArray:
        """log q(z) in nats; low: unfamiliar; -inf where the network overflowed."""
    def score(self, name: str) -> DeviceArray:
        """A score that was computed, by its name (`ddu.score_names`)."""
    @property
    def scores(self) -> list[str]:
        """Names of those that were."""
    @property
    def non_finite(self) -> int:
        """Cells of the feature grid with a feature that is not finite; their density is -inf."""
    @property
    def network_s(self) -> float:
        """Seconds in preprocessing and network."""
    @property
    def maps_s(self) -> float:
        """Seconds from the network's output to the maps."""

class DeviceImage:
    @staticmethod
    def of(engine: Engine, tensor: Any) -> DeviceImage: ...
    @property
    def size(self) -> tuple[int, int]: ...

class DeviceDensity:
    def __init__(self, density: Density, device: str) -> None: ...
    @property
    def device(self) -> str: ...
    def log_density(self, features: Any, shape: list[int], relative: bool) -> DeviceArray: ...
    def nearest(self, features: Any, shape: list[int]) -> tuple[DeviceArray, DeviceArray]: ...

class DeviceMoments:
    def __init__(self, start: Moments, device: str) -> None: ...
    def update(self, features: Any, labels: Any, images: int) -> None: ...
    def moments(self) -> Moments: ...

class Image:
    @staticmethod
    def read(path: str, upright: bool, resize: int | None = None) -> Image: ...
    @staticmethod
    def of(rgb: npt.NDArray[np.uint8], resize: int | None = None) -> Image: ...
    @property
    def size(self) -> tuple[int, int]: ...

class Labelled:
    @staticmethod
    def of(name: str, rgb: npt.NDArray[np.uint8], mask: npt.NDArray[np.uint8], resize: int | None) -> Labelled: ...
    @property
    def name(self) -> str: ...
    @property
    def hash(self) -> int: ...

class Dataset:
    @staticmethod
    def voc(root: str, split: str) -> Dataset: ...
    @staticmethod
    def folders(images: str, masks: str) -> Dataset: ...
    @staticmethod
    def pairs(pairs: list[tuple[str, str]]) -> Dataset: ...
    @property
    def classes(self) -> list[str] | None: ...
    def paths(self, index: int) -> tuple[str, str, str]: ...
    def __len__(self) -> int: ...
    def read(self, index: int, resize: int | None) -> Labelled: ...

class Engine:
    def __init__(self, model: Model, density: Density | None, device: str, scores: list[str] | None, precision: str) -> None: ...
    @property
    def model(self) -> Model: ...
    @property
    def density(self) -> Density | None: ...
    @property
    def device(self) -> str: ...
    @property
    def scores(self) -> list[str]: ...
    def run(self, images: list[Image]) -> list[Maps]: ...
    def run_on_device(self, images: list[DeviceImage]) -> list[DeviceMaps]: ...
    def features(self, image: Image) -> npt.NDArray[np.float32]: ...

class Fit:
    def __init__(
        self,
        engine: Engine,
        classes: list[str] | None,
        class_map: list[str],
        resize: int | None,
        weight: str | None,
    ) -> None: ...
    def add(self, labelled: Labelled) -> bool: ...
    def shard(self) -> Shard: ...
    def density(self) -> Density: ...

class Shard:
    @staticmethod
    def from_bytes(source: str, content: bytes) -> Shard: ...
    def to_bytes(self) -> bytes: ...
    def merge(self, source: str, other: Shard) -> None: ...
    def density(self) -> Density: ...

class Evaluation:
    def __init__(
        self,
        engine: Engine,
        classes: list[str] | None,
        class_map: list[str],
        ood_classes: list[str],
        void_as_inaccurate: bool,
        patches: list[int],
    ) -> None: ...
    def add(self, labelled: Labelled) -> None: ...
    def close(self) -> None: ...
    def results(self) -> str: ...

class Density:
    @staticmethod
    def load(path: str, covariance: str, prior: str, condition: float | None) -> Density: ...
    def with_options(self, covariance: str, prior: str, condition: float | None) -> Density: ...
    def save(self, path: str) -> None: ...
    def merged(self, others: list[Density]) -> Density: ...
    @property
    def warnings(self) -> list[str]: ...
    @property
    def classes(self) -> list[str]: ...
    @property
    def channels(self) -> int: ...
    @property
    def count(self) -> list[int]: ...
    @property
    def images(self) -> int: ...
    @property
    def pixels(self) -> tuple[int, int, int, list[tuple[int, int]]]: ...
    @property
    def resize(self) -> int | None: ...
    @property
    def model_sha256(self) -> str: ...
    @property
    def covariance(self) -> str: ...
    @property
    def prior(self) -> str: ...
    def parameters(self) -> list[tuple[int, tuple[Any, Any, float, float]]]: ...
    def background(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], float]: ...
    def conditions(self) -> list[tuple[int, float, float]]: ...
    def log_density(self, features: npt.NDArray[Any], bf16: bool, relative: bool) -> npt.NDArray[np.float32]: ...
    def nearest(self, features: npt.NDArray[Any], bf16: bool) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]: ...
    def to_bytes(self) -> bytes: ...

class Moments:
    def __init__(self, names: list[str], channels: int) -> None: ...
    @staticmethod
    def load(path: str) -> Moments: ...
    @staticmethod
    def _from_bytes(content: bytes) -> Moments: ...
    def update(self, features: npt.NDArray[Any], bf16: bool, labels: npt.NDArray[np.uint8], skip_non_finite: bool) -> None: ...
    def add(self, other: Moments) -> Moments: ...
    @property
    def names(self) -> list[str]: ...
    @property
    def channels(self) -> int: ...
    @property
    def count(self) -> list[int]: ...
    @property
    def pixels(self) -> tuple[int, int, int, int]: ...
    def density(self, covariance: str, prior: str, condition: float | None) -> Density: ...
    def save(self, path: str) -> None: ...
    def to_bytes(self) -> bytes: ...

def convert(
    path: str,
    family: str | None,
    backbone: str | None,
    output_stride: int | None,
    atrous_rates: list[int] | None,
    classes: list[str] | None,
) -> Model: ...
def class_names(path: str) -> list[str]: ...
def demo(folder: str, progress: Callable[[int, int], None]) -> str: ...
def demo_model() -> Model:
    """The small network that ships with the package, trained on the scenes that `ddu.scenes` draws."""

def scenes(folder: str, count: int, seed: int) -> None: ...
def sample_labels(mask: npt.NDArray[np.uint8], grid: tuple[int, int], align_corners: bool) -> npt.NDArray[np.uint8]: ...
def score_names() -> list[tuple[str, str, str]]:
    """Name, unit and equation of every score."""

def threads() -> int:
    """Threads that the CPU path computes with; RAYON_NUM_THREADS sets them before the first use."""
