"""A density's maps beside the output of any PyTorch segmentation network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import nn

from ._ddu import DeviceArray
from ._density import Density, Moments, sample_labels
from ._errors import InvalidError

ScoreName = Literal["density", "relative", "mahalanobis"]


class UncertainOutput(NamedTuple):
    """What :class:`Uncertain` returns."""

    #: What the wrapped network returns.
    output: Any
    #: ``[N, h, w]`` of float32 on the features' grid; low means unfamiliar, but for ``"mahalanobis"``.
    score: torch.Tensor


class Uncertain(nn.Module):
    """A segmentation network that also says how unfamiliar its features are.

    >>> model = smp.Unet(...)
    >>> moments = ddu.torch.fit(model, model.segmentation_head[0], loader, classes=21)
    >>> uncertain = ddu.torch.Uncertain(model, model.segmentation_head[0], moments.density())
    >>> logits, log_density = uncertain(images)

    A forward pre-hook reads the input of ``feature_layer``, in general the last convolution: the network itself runs as
    before. Features on the density's GPU (:meth:`ddu.Density.to`) are evaluated there, others on the host; the score comes back
    on the features' device. It carries no gradient.
    """

    def __init__(
        self,
        model: nn.Module,
        feature_layer: nn.Module | str,
        density: Density,
        *,
        score: ScoreName = "density",
        layout: Literal["NCHW", "NHWC"] = "NCHW",
    ) -> None:
        """Wraps ``model``; ``feature_layer`` is one of its modules, or the name of one."""
        super().__init__()
        if score not in ("density", "relative", "mahalanobis"):
            raise InvalidError(f'score: expected "density", "relative" or "mahalanobis", found {score!r}')
        self.model = model
        self.density = density
        self._score = score
        self._layout: Literal["NCHW", "NHWC"] = layout
        self._layer = _layer(model, feature_layer)

    def forward(self, *args: Any, **kwargs: Any) -> UncertainOutput:
        """The network's output and the score of every feature."""
        with _Tap(self._layer) as tap:
            output = self.model(*args, **kwargs)
        features = tap.features()
        return UncertainOutput(output, self._scored(features))

    def _scored(self, features: torch.Tensor) -> torch.Tensor:
        if self._score == "density":
            score = self.density(features, layout=self._layout)
        elif self._score == "relative":
            score = self.density.relative(features, layout=self._layout)
        else:
            score = self.density.mahalanobis(features, layout=self._layout)[1]
        if isinstance(score, DeviceArray):
            return torch.from_dlpack(score)
        return torch.from_numpy(score).to(features.device)


class _Tap:
    """Reads the input of a layer during one forward pass; threads each have their own."""

    def __init__(self, layer: nn.Module) -> None:
        self._layer = layer
        self._seen: list[torch.Tensor] = []
        self._remove: Callable[[], None] = lambda: None

    def __enter__(self) -> _Tap:
        self._remove = self._layer.register_forward_pre_hook(self._see).remove
        return self

    def __exit__(self, *_: object) -> None:
        self._remove()

    def _see(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._seen.append(inputs[0])

    def features(self) -> torch.Tensor:
        if len(self._seen) != 1:
            raise InvalidError(f"feature_layer: expected one that runs once in a forward pass, found {len(self._seen)} runs")
        return self._seen[0].detach()


def _layer(model: nn.Module, layer: nn.Module | str) -> nn.Module:
    if isinstance(layer, str):
        modules = dict(model.named_modules())
        if layer not in modules:
            raise InvalidError(f"feature_layer: expected the name of a module of the network, found {layer!r}")
        return modules[layer]
    if all(module is not layer for module in model.modules()):
        raise InvalidError("feature_layer: expected a module of the network, found another")
    return layer


def fit(
    model: nn.Module,
    feature_layer: nn.Module | str,
    batches: Any,
    *,
    classes: int | list[str],
    layout: Literal["NCHW", "NHWC"] = "NCHW",
    align_corners: bool = False,
    device: str = "cpu",
) -> Moments:
    """The moments of a network's features over labelled batches.

    Args:
        model: the network; it is put into evaluation mode for the time of the fit.
        feature_layer: the layer whose input is the feature, a module or its name.
        batches: ``(inputs, labels)`` as a DataLoader gives them; labels ``[N, H, W]`` of the images' size, class indices
            or 255 for void.
        classes: their number, or names.
        layout: where the channels of the features are.
        align_corners: how the network lays the features' grid over the image.
        device: where the moments are kept, as of :meth:`ddu.Moments.to`: features on that GPU never come to the host.
    """
    layer = _layer(model, feature_layer)
    training = model.training
    model.eval()
    moments: Moments | None = None
    try:
        for inputs, labels in batches:
            with _Tap(layer) as tap, torch.no_grad():
                model(inputs)
            features = tap.features()
            if features.ndim != 4:
                raise InvalidError(f"feature_layer: expected an input of four axes, found {list(features.shape)}")
            n, d, h, w = features.shape if layout == "NCHW" else features.permute(0, 3, 1, 2).shape
            if moments is None:
                moments = Moments(classes, d).to(device)
            grid = np.stack([sample_labels(mask, (h, w), align_corners=align_corners) for mask in labels])
            if len(grid) != n:
                raise InvalidError(f"labels: expected {n}, one for each image, found {len(grid)}")
            moments.update(features, grid, layout=layout)
    finally:
        model.train(training)
    if moments is None:
        raise InvalidError("batches: expected at least one, found none")
    return moments
