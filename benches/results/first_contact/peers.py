#!/usr/bin/env python3
"""What PyTorch does on the same GPU, for run.py; needs torch alone, and training/network.py beside this file.

    python3 peers.py make OUT.pth                     # DeepLab-v3+ with ResNet-101 of random weights
    python3 peers.py ceilings                         # a large fp16 product, a large copy
    python3 peers.py network --ddu DDU --model M --checkpoint C.pth --picture P.png --batch N
    python3 peers.py density --batch N --size 513     # log-density and moments of random features

Times are of CUDA events around single calls, medians of --repeats with the least and the greatest, after 0.3 s of work.
"""

import argparse
import array
import ast
import json
import math
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional as F

import pictures
from network import DeepLabV3Plus

CLASSES, CHANNELS = 21, 256
ROUNDS = 3


def events(run, repeats):
    """Microseconds of each call."""
    start = time.monotonic()
    while time.monotonic() - start < 0.3:
        run()
        torch.cuda.synchronize()
    times = []
    for _ in range(repeats):
        before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        before.record()
        run()
        after.record()
        after.synchronize()
        times.append(before.elapsed_time(after) * 1e3)
    return times


def spread(times):
    return f"{statistics.median(times):.1f} us, median of {len(times)} ({min(times):.1f} .. {max(times):.1f})"


def network():
    torch.manual_seed(0)
    model = DeepLabV3Plus(CLASSES, "resnet101").eval()
    # A norm after each convolution that leaves its output at about one, as training would.
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.reset_running_stats()
                module.momentum = None
        model.train()
        model(torch.randn(2, 3, 129, 129))
        model.eval()
    return model


def make(args):
    torch.save(network().state_dict(), args.out)


def ceilings(_):
    n = 8192
    a, b = (torch.randn(n, n, device="cuda", dtype=torch.float16) for _ in range(2))
    times = events(lambda: torch.mm(a, b), 50)
    rate = 2 * n**3 / statistics.median(times) / 1e6
    print(f"torch.mm, {n} x {n} x {n} fp16: {spread(times)}, {rate:.1f} TFLOP/s")
    x = torch.empty(1 << 30, device="cuda", dtype=torch.uint8)
    y = torch.empty_like(x)
    times = events(lambda: y.copy_(x), 50)
    print(f"copy of 1 GiB: {spread(times)}, {2 * x.numel() / statistics.median(times) / 1e3:.1f} GB/s read and written")


def npy(path):
    """An f32 array that ddu wrote, as a tensor."""
    data = Path(path).read_bytes()
    length = struct.unpack("<H", data[8:10])[0]
    shape = ast.literal_eval(data[10:10 + length].decode())["shape"]
    values = array.array("f")
    values.frombytes(data[10 + length:])
    return torch.tensor(values).reshape(shape)


def graph(run):
    """A call that replays `run` as a CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(side)
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        run()
    return captured.replay


def ddu(args, repeats):
    """ddu's median, least and greatest microseconds of a whole run."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "profile.json"
        subprocess.run([args.ddu, "profile", "-m", args.model, "--input", args.picture, "--batch", str(args.batch), "--device",
                        args.device, "--repeats", str(repeats), "--json", report], check=True)
        run = json.loads(report.read_text())["run_us"]
    return [run["p50"], run["min"], run["max"]]


def agreement(args, entropy):
    """How far PyTorch's entropy is from ddu's, per pixel."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([args.ddu, "infer", "-m", args.model, args.picture, "-o", folder, "--device", args.device], check=True)
        theirs = npy(next(Path(folder).rglob("*.entropy.npy")))
    error = (entropy.float().cpu() - theirs).abs().flatten().sort().values
    at = [error[int(share * (len(error) - 1))].item() for share in (0.5, 0.99, 1)]
    print(f"entropy, PyTorch fp16 against ddu, nats: median {at[0]:.2e}, 99 % below {at[1]:.2e}, at most {at[2]:.2e}")


@torch.no_grad()
def compare_network(args):
    model = DeepLabV3Plus(CLASSES, "resnet101").eval()
    model.load_state_dict(torch.load(args.checkpoint, map_location="cpu"))
    model = model.cuda().half().to(memory_format=torch.channels_last)
    size, data = pictures.rgb(args.picture)
    image = torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(size, size, 3).permute(2, 0, 1).float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    image = (image - mean[:, None, None]) / std[:, None, None]
    padded = -(-size // 16) * 16
    image = F.pad(image, (0, padded - size, 0, padded - size))
    x = image.expand(args.batch, -1, -1, -1).cuda().half().contiguous(memory_format=torch.channels_last)

    def maps(x):
        p = model(x)[..., :size, :size].float()
        p = p.log_softmax(1)
        return p.argmax(1), -(p.exp() * p).sum(1)

    agreement(args, maps(x)[1][0])
    forms = {"eager": lambda: maps(x), "CUDA graph": graph(lambda: maps(x))}
    try:
        compiled = torch.compile(maps, mode="max-autotune-no-cudagraphs" if args.autotune else None)
        compiled(x)
        forms["torch.compile"] = lambda: compiled(x)
        forms["torch.compile, CUDA graph"] = graph(lambda: compiled(x))
    except Exception as error:  # pylint: disable=broad-exception-caught
        # A machine without a C++ compiler has no torch.compile; the others are still of use.
        print(f"torch.compile: {type(error).__name__}: {error}".splitlines()[0])
    print(f"DeepLab-v3+ ResNet-101, {args.batch} x {size} x {size}, label and entropy included, {ROUNDS} rounds in turn")
    for turn in range(ROUNDS):
        p50, least, most = ddu(args, args.repeats)
        print(f"round {turn}: ddu, graph: {p50:.1f} us, median of {args.repeats} ({least:.1f} .. {most:.1f})", flush=True)
        for name, run in forms.items():
            print(f"round {turn}: PyTorch, {name}: {spread(events(run, args.repeats))}", flush=True)


@torch.no_grad()
def compare_density(args):
    """Formulations of log q and of the moments, of as many random features as the network has at this size."""
    side = (-(-args.size // 16) * 16) // 4
    cells = args.batch * side * side
    torch.manual_seed(0)
    z = torch.randn(cells, CHANNELS, device="cuda").half()
    mean = torch.randn(CLASSES, CHANNELS, device="cuda")
    # Any lower triangle with a diagonal away from zero is the root of a covariance.
    lower = torch.randn(CLASSES, CHANNELS, CHANNELS, device="cuda").tril(-1) / CHANNELS**0.5 + torch.eye(CHANNELS, device="cuda")
    white = torch.linalg.solve_triangular(lower, torch.eye(CHANNELS, device="cuda").expand_as(lower), upper=False)
    constant = -0.5 * CHANNELS * math.log(2 * math.pi) - lower.diagonal(dim1=1, dim2=2).log().sum(1) - math.log(CLASSES)
    flat = white.reshape(-1, CHANNELS).T.contiguous()
    bias = -(white @ mean[:, :, None]).reshape(-1)
    flat16, bias16 = flat.half(), bias.half()
    normal = torch.distributions.MultivariateNormal(mean, scale_tril=lower, validate_args=False)
    z32 = z.float()

    def multivariate():
        # In parts: all classes of all cells at once would not fit.
        return torch.cat([torch.logsumexp(normal.log_prob(part[:, None]) - math.log(CLASSES), 1) for part in z32.split(8192)])

    def whole(part, matrix, offset):
        y = torch.addmm(offset, part, matrix).float().view(len(part), CLASSES, CHANNELS)
        return torch.logsumexp(constant - 0.5 * y.square().sum(-1), 1)

    def tf32():
        torch.backends.cuda.matmul.allow_tf32 = True
        result = torch.cat([whole(part, flat, bias) for part in z32.split(1 << 16)])
        torch.backends.cuda.matmul.allow_tf32 = False
        return result

    forms = {
        "MultivariateNormal, f32": multivariate,
        "one addmm, f32": lambda: torch.cat([whole(part, flat, bias) for part in z32.split(1 << 16)]),
        "one addmm, TF32": tf32,
        "one addmm, fp16": lambda: torch.cat([whole(part, flat16, bias16) for part in z.split(1 << 16)]),
    }
    try:
        compiled = torch.compile(whole)
        compiled(z32[:1 << 16], flat, bias)
        forms["one addmm, f32, compiled"] = lambda: torch.cat([compiled(part, flat, bias) for part in z32.split(1 << 16)])
    except Exception as error:  # pylint: disable=broad-exception-caught
        print(f"torch.compile: {type(error).__name__}: {error}".splitlines()[0])
    print(f"{cells} cells x {CHANNELS} channels, {CLASSES} classes; errors against f64 on 2048 cells")
    some = z[:2048].double()
    y = torch.einsum("cij,ncj->nci", white.double(), some[:, None] - mean.double())
    expected = torch.logsumexp(constant.double() - 0.5 * y.square().sum(-1), 1)
    repeats = min(args.repeats, 30)
    for name, run in forms.items():
        error = (run()[:2048].double() - expected).abs().max().item()
        print(f"log-density, {name}: {spread(events(run, repeats))}; off by at most {error:.2e}", flush=True)

    labels = (torch.arange(cells, device="cuda") // 64) % CLASSES

    def by_class(dtype):
        def run():
            for c in range(CLASSES):
                part = z[labels == c].to(dtype)
                part = part - part.mean(0)
                part.T @ part
        return run

    one_hot = F.one_hot(labels, CLASSES).float()

    def sums():
        count = one_hot.sum(0)
        centre = (one_hot.T @ z32) / count[:, None]
        centred = z32 - centre[labels]
        order = labels.argsort()
        for part in centred[order].split(count.long().tolist()):
            part.T @ part

    for name, run in {"a product a class, f32": by_class(torch.float32), "a product a class, f64": by_class(torch.float64),
                      "one-hot sums, sorted products, f32": sums}.items():
        print(f"moments, {name}: {spread(events(run, repeats))}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("make")
    one.add_argument("out")
    one.set_defaults(run=make)
    commands.add_parser("ceilings").set_defaults(run=ceilings)
    one = commands.add_parser("network")
    for name in ("--ddu", "--model", "--checkpoint", "--picture"):
        one.add_argument(name, required=True)
    one.add_argument("--device", default="cuda:0")
    one.add_argument("--autotune", action="store_true", help="let torch.compile search, for minutes")
    one.set_defaults(run=compare_network)
    two = commands.add_parser("density")
    two.add_argument("--size", type=int, default=513)
    two.set_defaults(run=compare_density)
    for each in (one, two):
        each.add_argument("--batch", type=int, default=1)
        each.add_argument("--repeats", type=int, default=200)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    sys.exit(main())
