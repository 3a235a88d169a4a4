"""How much faster a density is than torch.distributions on the same features: `python benches/multivariate_normal.py`.

Per network: features of one picture, 19 classes (colours), log q(z) of every one in float32 by ddu and by MultivariateNormal with
logsumexp, in turns; the median of the ratios. Threads: RAYON_NUM_THREADS and torch's own.
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

CLASSES, PAIRS, SIZE = 19, 5, (512, 640)


def in_turns(first, second):
    """Seconds of both, PAIRS times, after one to warm up."""

    def seconds(call):
        start = time.perf_counter()
        call()
        return time.perf_counter() - start

    return [(seconds(first), seconds(second)) for _ in range(PAIRS + 1)][1:]


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
        normal = mixture(density, torch.float32)
        rows = features.permute(0, 2, 3, 1).reshape(-1, channels).contiguous()
        ours = rows.numpy()

        pairs = in_turns(partial(normal, rows), partial(density, ours))
        ratios = sorted(torch_s / ddu_s for torch_s, ddu_s in pairs)
        torch_s, ddu_s = (np.median([pair[i] for pair in pairs]) for i in (0, 1))
        print(
            f"{name}: {len(rows)} features of {channels} channels, {CLASSES} classes: torch {1e3 * torch_s:.1f} ms, "
            f"ddu {1e3 * ddu_s:.1f} ms; ratio {ratios[len(ratios) // 2]:.1f} ({ratios[0]:.1f} to {ratios[-1]:.1f})"
        )


if __name__ == "__main__":
    main()
