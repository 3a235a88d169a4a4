"""How much faster a density is than torch.distributions: `python benches/multivariate_normal.py [HEIGHT WIDTH]`.

Per network: features of one picture (512 x 640), 19 classes (colours), log q(z) of every one in float32 by ddu and by
MultivariateNormal with logsumexp, in turns; the median of the ratios. MultivariateNormal is called once for all classes and once
for each, and the way that is faster there counts. Threads: RAYON_NUM_THREADS and torch's own.
"""

import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from networks import NETWORKS, made, pictures
from test_torch import features_of, mixture

import ddu

CLASSES, PAIRS = 19, 5
SIZE = tuple(map(int, sys.argv[1:3])) or (512, 640)


def in_turns(first, second):
    """Seconds of both, PAIRS times: the median of three calls, after 50 ms of them.

    Those pay for what came before: PyTorch's threads spin for milliseconds on cores that the next call would use, and
    threads that slept have to wake.
    """

    def taken(call):
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    def seconds(call):
        warm = time.perf_counter() + 0.05
        while time.perf_counter() < warm:
            call()
        return sorted(taken(call) for _ in range(3))[1]

    return [(seconds(first), seconds(second)) for _ in range(PAIRS)]


def by_class(density):
    """As `mixture`, a distribution for each class."""
    classes = []
    for values in density.parameters().values():
        mean, covariance = (torch.tensor(values[name], dtype=torch.float32) for name in ("mean", "covariance"))
        normal = torch.distributions.MultivariateNormal(mean, covariance, validate_args=False)
        classes.append((normal, values["log_prior"]))
    return lambda z: torch.logsumexp(torch.stack([normal.log_prob(z) + prior for normal, prior in classes], 1), 1)


def classes_of(images, grid):
    """The nearest of CLASSES colours, `[N, h, w]`: a class is something that a network could see."""
    colours = torch.randn(CLASSES, 3, generator=torch.Generator().manual_seed(1))
    small = torch.nn.functional.interpolate(images, size=grid, mode="bilinear", antialias=True)
    return torch.cdist(small.permute(0, 2, 3, 1), colours).argmin(-1)


def main() -> None:
    torch.set_num_threads(ddu.threads())
    print(f"{ddu.threads()} threads")
    for name in NETWORKS:
        model, layer = made(name)
        features = features_of(model, layer, pictures(7, size=SIZE))
        _, channels, h, w = features.shape
        # Enough pictures for covariances of full rank.
        moments = ddu.Moments(CLASSES, channels)
        for seed in range(-(-CLASSES * channels * 8 // (h * w)) + 1):
            images = pictures(50 + seed, size=SIZE)
            moments.update(features_of(model, layer, images), classes_of(images, (h, w)))
        density = moments.density()
        ways = {"all classes at once": mixture(density, torch.float32), "class by class": by_class(density)}
        rows = features.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()
        ours = rows.numpy()

        forms = {way: in_turns(partial(normal, rows), lambda: None) for way, normal in ways.items()}
        fairest = min(forms, key=lambda way: np.median([seconds for seconds, _ in forms[way]]))
        pairs = in_turns(partial(ways[fairest], rows), partial(density, ours))
        ratios = sorted(torch_s / ddu_s for torch_s, ddu_s in pairs)
        torch_s, ddu_s = (np.median([pair[i] for pair in pairs]) for i in (0, 1))
        print(
            f"{name}: {len(rows)} features of {channels} channels, {CLASSES} classes: torch, {fairest}, {1e3 * torch_s:.1f} ms, "
            f"ddu {1e3 * ddu_s:.1f} ms; ratio {ratios[len(ratios) // 2]:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
        )


if __name__ == "__main__":
    main()
