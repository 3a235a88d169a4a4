#!/usr/bin/env python3
"""log q(z) of the 92 x 120 x 256 features of a street scene on the CPU: ddu beside PyTorch.

    python benches/peers/density.py --shared ../shared --threads 2 --rounds 5

Needs torch, numpy, safetensors and cargo. Each round times every formulation once (the median of
--repeats passes) and runs `cargo bench --bench density`, so that all see the same machine. Every
formulation's result is checked against the stored f64 one first.

The peers, all f32:
- MultivariateNormal: `torch.distributions.MultivariateNormal(mu, Sigma).log_prob(z[:, None, :])` for
  all classes together, then logsumexp, as the authors' code (omegafragger/DDU) evaluates it.
- whole GEMM: one addmm of all pixels with the whitening matrices of all classes, squares, sums.
- class GEMMs: an addmm a class, squares, sums.
- tiled GEMM: the first in tiles of pixels whose products stay in the cache; the best of several.
- the last three under torch.compile.
"""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TILES = (128, 256, 512, 1104)


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shared", default=str(ROOT.parent / "shared"))
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    return parser.parse_args()


def widen(count, mean, scatter, classes):
    """benches/density.rs's: copies of the classes with other means."""
    known = len(count)
    index = [c % known for c in range(classes)]
    means = [(c + c // known) % known for c in range(classes)]
    return count[index], mean[means], scatter[index]


def gaussians(count, mean, scatter):
    """Covariances by ddu's rule for eps, f64."""
    import torch

    n = count.double()
    sigma = scatter / (n - 1)[:, None, None]
    d = sigma.shape[-1]
    for c, matrix in enumerate(sigma):
        values, scale = torch.linalg.eigvalsh(matrix), matrix.trace() / d
        for ratio in [0.0] + [10.0**-k for k in range(8, -1, -1)]:
            low, high = values[0] + ratio * scale, values[-1] + ratio * scale
            if low > 0 and high / low <= 1e4:
                break
        sigma[c] += ratio * scale * torch.eye(d, dtype=torch.float64)
    return (n / n.sum()).log(), mean, sigma


def formulations(prior, mean, sigma, compile_too):
    """name -> function of z [P, D]; all return log q [P]."""
    import torch

    lower = torch.linalg.cholesky(sigma)
    eye = torch.eye(sigma.shape[-1], dtype=torch.float64).expand_as(sigma)
    white = torch.linalg.solve_triangular(lower, eye, upper=False)
    classes, d, _ = white.shape
    log_det = 2 * lower.diagonal(dim1=1, dim2=2).log().sum(1)
    constant = (prior - 0.5 * (d * math.log(2 * math.pi) + log_det)).float()
    transposed = white.reshape(classes * d, d).float().T.contiguous()
    bias = -(white @ mean[:, :, None]).reshape(-1).float()
    each = [(white[c].float().T.contiguous(), bias[c * d:(c + 1) * d].clone())
            for c in range(classes)]
    normal = torch.distributions.MultivariateNormal(mean.float(), sigma.float())
    weight = prior.float()

    def multivariate_normal(z):
        return torch.logsumexp(normal.log_prob(z[:, None, :]) + weight, 1)

    def whole(z):
        y = torch.addmm(bias, z, transposed).view(len(z), classes, d)
        return torch.logsumexp(constant - 0.5 * y.square().sum(-1), 1)

    def by_class(z):
        distances = [torch.addmm(b, z, w).square().sum(1) for w, b in each]
        return torch.logsumexp(constant - 0.5 * torch.stack(distances, 1), 1)

    def tiled(tile):
        return lambda z: torch.cat([whole(part) for part in z.split(tile)])

    forms = {"MultivariateNormal": multivariate_normal, "whole GEMM": whole,
             "class GEMMs": by_class}
    forms |= {f"tiled GEMM, {tile}": tiled(tile) for tile in TILES}
    if compile_too:
        forms["whole GEMM, compiled"] = torch.compile(whole)
        forms["class GEMMs, compiled"] = torch.compile(by_class)
        compiled = torch.compile(whole)
        forms["tiled GEMM, compiled"] = lambda z: torch.cat([compiled(p) for p in z.split(552)])
    return forms


def own(classes, threads):
    """Median milliseconds of ddu's benches."""
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads))
    command = ["cargo", "bench", "--bench", "density", "--", f"density/{classes}-",
               "--warm-up-time", "0.5", "--measurement-time", "1"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    times = {}
    for name in ("dense", "early-exit"):
        path = target / f"criterion/density/{classes}-{name}/new/estimates.json"
        times[f"ddu, {name}"] = json.loads(path.read_text())["median"]["point_estimate"] / 1e6
    return times


def main():
    args = arguments()
    os.environ["DDU_SHARED"] = str(Path(args.shared).resolve())
    import torch
    from safetensors.torch import load_file

    torch.set_num_threads(args.threads)
    torch.set_grad_enabled(False)
    golden = load_file(Path(args.shared) / "golden/camvid-r18/golden.safetensors")
    z = golden["0001TP_008550.feature_grid"].float().reshape(-1, 256)
    expected = golden["0001TP_008550.log_density_grid.empirical"].reshape(-1)
    moments = [golden[f"fit.{name}"] for name in ("count", "mean", "scatter")]
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                if line.startswith("model name")), platform.processor())
    print(f"{cpu}, {args.threads} threads, {args.rounds} rounds, torch {torch.__version__}")
    for classes in (9, 21):
        forms = formulations(*gaussians(*widen(*moments, classes)), not args.no_compile)
        for name, form in forms.items():
            error = (form(z).double() - expected).abs()
            if classes == 9 and (error > 2e-3 + 2e-5 * expected.abs()).any():
                sys.exit(f"{name}: off by {error.max()}")
        samples = {}
        for _ in range(args.rounds):
            for name, form in forms.items():
                times = []
                for _ in range(args.repeats):
                    start = time.perf_counter()
                    form(z)
                    times.append((time.perf_counter() - start) * 1e3)
                samples.setdefault(name, []).append(statistics.median(times))
            for name, milliseconds in own(classes, args.threads).items():
                samples.setdefault(name, []).append(milliseconds)
        print(f"\n| {classes} classes | min ms | median ms | x dense | x early exit |")
        print("|---|---|---|---|---|")
        for name, times in samples.items():
            ratio = [statistics.median(t / o for t, o in zip(times, samples[f"ddu, {kind}"]))
                     for kind in ("dense", "early-exit")]
            print(f"| {name} | {min(times):.1f} | {statistics.median(times):.1f} | "
                  f"{ratio[0]:.2f} | {ratio[1]:.2f} |")


if __name__ == "__main__":
    main()
