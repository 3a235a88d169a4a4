#!/usr/bin/env python3
"""The network stage of `ddu infer`, in f32 and bf16, against PyTorch (eval, channels_last), ONNX Runtime and OpenVINO.

Same weights, same images, same thread count, one run: all take turns, round after round, so that a drift of
the machine meets all of them. Times are one forward pass of one padded image, without decoding, normalisation and
maps (which `ddu infer` does on the same cores meanwhile); memory is the peak resident set of a process that does
nothing else. The networks are segmentation-models-pytorch's DeepLabV3Plus of output stride 16 with random weights:
times do not depend on them.

  pip install torch segmentation-models-pytorch onnx onnxruntime openvino pillow
  python benches/peers/network.py [--backbones resnet18 resnet50 resnet101] [--threads 2] [--rounds 5] \
      [--ddu target/release/ddu] [--folder DIR]

DIR keeps the networks and images, so that a second run starts with the first round.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# Images of a backbone, before padding.
SIZES = {"resnet18": (360, 480), "resnet34": (360, 480), "resnet50": (360, 480), "resnet101": (513, 513)}
IMAGES = 8
CLASSES = 9
PEERS = ["ddu", "ddu bf16", "PyTorch", "PyTorch bf16", "ONNX Runtime", "OpenVINO", "OpenVINO bf16"]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--backbones", nargs="+", default=["resnet18", "resnet50", "resnet101"], choices=SIZES)
    parser.add_argument("--ddu", default="target/release/ddu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", help="where networks and images are kept; a temporary one by default")
    parser.add_argument("--peer", choices=["prepare", *PEERS], help=argparse.SUPPRESS)
    return parser.parse_args()


def load(backbone, folder):
    import segmentation_models_pytorch as smp
    import torch

    network = smp.DeepLabV3Plus(backbone, encoder_weights=None, classes=CLASSES, encoder_output_stride=16,
                                decoder_atrous_rates=(6, 12, 18))
    network.load_state_dict(torch.load(folder / f"{backbone}.pth", map_location="cpu"))
    return network.eval()


def prepare(backbone, folder, ddu):
    """Network, its ONNX export, ddu's model and images, where they are not there yet. In a process of its own: a child's
    peak memory begins with its parent's."""
    import numpy as np
    import segmentation_models_pytorch as smp
    import torch
    from PIL import Image

    if not (folder / f"{backbone}.pth").exists():
        torch.manual_seed(1)
        network = smp.DeepLabV3Plus(backbone, encoder_weights=None, classes=CLASSES, encoder_output_stride=16)
        last = "bn3.weight" if backbone in ("resnet50", "resnet101") else "bn2.weight"
        for name, tensor in network.state_dict().items():
            # So that the sums of many residual blocks stay in range.
            if name.endswith(last):
                tensor.fill_(0.3)
        torch.save(network.state_dict(), folder / f"{backbone}.pth")
    images = pictures(folder, backbone)
    if not images.exists():
        images.mkdir()
        random = np.random.default_rng(1)
        for i in range(IMAGES):
            coarse = random.integers(0, 256, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize(SIZES[backbone][::-1], Image.BICUBIC).save(images / f"{i}.png")
    if not (folder / f"{backbone}.onnx").exists():
        torch.onnx.export(load(backbone, folder), (torch.from_numpy(next(inputs(images))),), folder / f"{backbone}.onnx",
                          dynamo=False, opset_version=17)
    if not (folder / f"{backbone}.safetensors").exists():
        subprocess.run([ddu, "convert", folder / f"{backbone}.pth", "--atrous-rates", "6,12,18", "--output-stride", "16",
                        "-o", folder / f"{backbone}.safetensors"], check=True)


def pictures(folder, backbone):
    return folder / f"images-{'x'.join(map(str, SIZES[backbone]))}"


def inputs(folder):
    """The images, normalised and padded to multiples of 16, NCHW f32."""
    import numpy as np
    from PIL import Image

    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    for path in sorted(Path(folder).iterdir()):
        rgb = np.asarray(Image.open(path).convert("RGB"), np.float32) / 255
        x = (rgb - mean) / std
        h, w = (-(-n // 16) * 16 for n in x.shape[:2])
        x = np.pad(x, [(0, h - x.shape[0]), (0, w - x.shape[1]), (0, 0)])
        yield np.ascontiguousarray(x.transpose(2, 0, 1)[None])


def peer(args):
    """Runs in a process of its own: prints the milliseconds of each pass."""
    folder, backbone, half = Path(args.folder), args.backbones[0], args.peer.endswith("bf16")
    if args.peer == "prepare":
        return prepare(backbone, folder, args.ddu)
    images = list(inputs(pictures(folder, backbone)))
    if args.peer.startswith("PyTorch"):
        import torch

        torch.set_num_threads(args.threads)
        kind = torch.bfloat16 if half else torch.float32
        network = load(backbone, folder).to(kind).to(memory_format=torch.channels_last)
        images = [torch.from_numpy(x).to(kind).contiguous(memory_format=torch.channels_last) for x in images]

        def run(x):
            with torch.inference_mode():
                return network(x)
    elif args.peer == "ONNX Runtime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        session = onnxruntime.InferenceSession(folder / f"{backbone}.onnx", options,
                                               providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def run(x):
            return session.run(None, {name: x})
    else:
        import openvino

        settings = {"INFERENCE_NUM_THREADS": args.threads, "PERFORMANCE_HINT": "LATENCY",
                    "INFERENCE_PRECISION_HINT": "bf16" if half else "f32"}
        core = openvino.Core()
        request = core.compile_model(core.read_model(folder / f"{backbone}.onnx"), "CPU",
                                     settings).create_infer_request()

        def run(x):
            return request.infer([x])
    run(images[0])
    times = []
    for x in images:
        start = time.perf_counter()
        run(x)
        times.append((time.perf_counter() - start) * 1e3)
    print(json.dumps({"ms": times}))


def child(command, threads):
    """stdout and the peak resident set (MiB) of a command."""
    environment = dict(os.environ, RAYON_NUM_THREADS=str(threads), OMP_NUM_THREADS=str(threads))
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, env=environment, text=True,
                               stderr=subprocess.DEVNULL)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"failed: {' '.join(map(str, command))}")
    return out, usage.ru_maxrss / 1024


def one(name, backbone, folder, images, args):
    """Milliseconds of each image and peak memory of one process."""
    if not name.startswith("ddu"):
        command = [sys.executable, __file__, "--backbones", backbone, "--threads", args.threads, "--folder", folder,
                   "--peer", name]
        out, peak = child(command, args.threads)
        return json.loads(out)["ms"], peak
    with tempfile.TemporaryDirectory() as output:
        paths = sorted(images.iterdir())
        command = [args.ddu, "infer", "--model", folder / f"{backbone}.safetensors", *paths, "-o", output,
                   "--device", "cpu", "--json", "-", "--precision", "bf16" if name.endswith("bf16") else "exact"]
        out, peak = child(command, args.threads)
    # The first pass packs the weights, as the peers' first pass warms them up.
    return [image["stages_ms"]["network"] for image in json.loads(out)["images"]][1:], peak


def table(backbone, folder, args):
    images = pictures(folder, backbone)
    child([sys.executable, __file__, "--backbones", backbone, "--folder", folder, "--ddu", args.ddu, "--peer", "prepare"],
          args.threads)
    samples = {name: [] for name in PEERS}
    memory = dict.fromkeys(PEERS, 0.0)
    for _ in range(args.rounds):
        for name in PEERS:
            ms, peak = one(name, backbone, folder, images, args)
            samples[name].append(statistics.median(ms))
            memory[name] = max(memory[name], peak)
    size = " x ".join(str(-(-n // 16) * 16) for n in SIZES[backbone])
    print(f"\n{backbone}, {size}: medians of {len(samples['ddu'])} rounds of {IMAGES} images")
    print("| | median ms | lowest and highest round | over ddu's in f32 | over ddu's in bf16 | peak RSS MiB |")
    print("|---|---|---|---|---|---|")
    for name, ms in samples.items():
        over = [statistics.median(b / a for a, b in zip(samples[ours], ms)) for ours in ("ddu", "ddu bf16")]
        print(f"| {name} | {statistics.median(ms):.1f} | {min(ms):.1f}, {max(ms):.1f} | {over[0]:.2f} | {over[1]:.2f} | "
              f"{memory[name]:.0f} |", flush=True)


def main():
    args = arguments()
    if args.peer:
        return peer(args)
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                if line.startswith("model name")), platform.processor())
    print(f"{cpu}, {args.threads} threads", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(args.folder or temporary)
        folder.mkdir(exist_ok=True)
        for backbone in args.backbones:
            table(backbone, folder, args)


if __name__ == "__main__":
    main()
