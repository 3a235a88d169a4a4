#!/usr/bin/env python3
"""The network stage of `ddu infer` against PyTorch (fp32, eval, channels_last) and ONNX Runtime.

Same weights, same images, same thread count, one run: the three take turns, round after round, so
that a drift of the machine meets all of them. Times are one forward pass of one padded image,
without decoding, normalisation and maps; memory is the peak resident set of a process that does
nothing else.

  pip install torch segmentation-models-pytorch onnx onnxruntime pillow
  python benches/peers/network.py --model model.safetensors --checkpoint checkpoint.pth \
      --images DIR [--ddu target/release/ddu] [--threads 2] [--rounds 5]

The checkpoint is a segmentation-models-pytorch DeepLabV3Plus ResNet-18 of output stride 16 with
ASPP rates 6, 12, 18.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="converted by `ddu convert`")
    parser.add_argument("--checkpoint", required=True, help="the same weights for PyTorch")
    parser.add_argument("--images", required=True, help="folder of images of one size")
    parser.add_argument("--ddu", default="target/release/ddu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer", choices=["torch", "onnx", "export"], help=argparse.SUPPRESS)
    parser.add_argument("--onnx", help=argparse.SUPPRESS)
    return parser.parse_args()


def load(checkpoint):
    import segmentation_models_pytorch as smp
    import torch

    state = torch.load(checkpoint, map_location="cpu")
    classes = state["segmentation_head.0.bias"].numel()
    network = smp.DeepLabV3Plus("resnet18", encoder_weights=None, classes=classes,
                                encoder_output_stride=16, decoder_atrous_rates=(6, 12, 18))
    network.load_state_dict(state)
    return network.eval()


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
    """Runs in a process of its own: prints the milliseconds of each pass and the peak memory."""
    images = list(inputs(args.images))
    if args.peer == "torch":
        import torch

        torch.set_num_threads(args.threads)
        network = load(args.checkpoint).to(memory_format=torch.channels_last)
        images = [torch.from_numpy(x).contiguous(memory_format=torch.channels_last)
                  for x in images]

        def run(x):
            with torch.inference_mode():
                return network(x)
    elif args.peer == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        session = onnxruntime.InferenceSession(args.onnx, options,
                                               providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def run(x):
            return session.run(None, {name: x})
    else:
        import torch

        torch.onnx.export(load(args.checkpoint), (torch.from_numpy(images[0]),), args.onnx,
                          dynamo=False, opset_version=17)
        return
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
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True,
                               stderr=subprocess.DEVNULL)
    out = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"failed: {' '.join(command)}")
    return out, usage.ru_maxrss / 1024


def main():
    args = arguments()
    if args.peer:
        return peer(args)
    samples = {"ddu": [], "PyTorch channels_last": [], "ONNX Runtime": []}
    memory = dict.fromkeys(samples, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        onnx = f"{folder}/network.onnx"
        again = [sys.executable, __file__, "--model", args.model, "--checkpoint", args.checkpoint,
                 "--images", args.images, "--threads", str(args.threads), "--onnx", onnx]
        child(again + ["--peer", "export"], args.threads)
        for i in range(args.rounds):
            def note(name, milliseconds, peak):
                samples[name].append(milliseconds)
                memory[name] = max(memory[name], peak)

            command = [args.ddu, "infer", "--model", args.model, args.images, "-o",
                       f"{folder}/{i}", "--device", "cpu", "--json", "-"]
            out, peak = child(command, args.threads)
            images = json.loads(out)["images"]
            # The first pass packs the weights, as the peers' first pass warms them up.
            note("ddu", [image["stages_ms"]["network"] for image in images][1:], peak)
            for name, key in [("PyTorch channels_last", "torch"), ("ONNX Runtime", "onnx")]:
                out, peak = child(again + ["--peer", key], args.threads)
                note(name, json.loads(out)["ms"], peak)
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo")
                if line.startswith("model name")), platform.processor())
    print(f"{cpu}, {args.threads} threads, {args.rounds} rounds, ms a pass\n")
    print(f"| | min | median | max | ddu's median over its (paired rounds) | peak RSS MiB |")
    print("|---|---|---|---|---|---|")
    for name, rounds in samples.items():
        flat = [ms for ms_of_round in rounds for ms in ms_of_round]
        ratios = [statistics.median(a) / statistics.median(b)
                  for a, b in zip(samples["ddu"], rounds)]
        print(f"| {name} | {min(flat):.1f} | {statistics.median(flat):.1f} | {max(flat):.1f} | "
              f"{statistics.median(ratios):.2f} | {memory[name]:.0f} |")


if __name__ == "__main__":
    main()
