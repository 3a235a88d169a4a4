#!/usr/bin/env python3
"""Makes the folder that run.py runs from, on a machine with cargo and nvcc and without a GPU.

    python3 benches/results/first_contact/pack.py OUT [MODEL.safetensors ...]

OUT gets ddu and the test program of tests/kernels with kernels for every architecture, stripped, the sources of the
fragment dumps, the scripts, and the models (those of `ddu convert`; the demo's is always among them): 64 MiB at most.
The GPU's machine must have a glibc as new as this one's.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
LIMIT = 64 << 20
SCRIPTS = ["run.py", "steps.py", "pictures.py", "peers.py"]


def converted(path):
    """Whether `ddu convert` wrote it: a safetensors file that says so."""
    try:
        with open(path, "rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        return "ddu.format" in header["__metadata__"]
    except (OSError, ValueError, KeyError, OverflowError):
        return False


def revision():
    """Of the sources that are built."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False).stdout.strip()


def build():
    """Paths of ddu and of the test program, from one set of features, so that nothing is compiled twice."""
    common = ["--release", "--locked", "--features", "simt", "--message-format", "json-render-diagnostics"]
    # ddu comes along: the tests may run it.
    messages = subprocess.run(["cargo", "test", *common, "--test", "kernels", "--no-run"], cwd=ROOT, check=True,
                              stdout=subprocess.PIPE, text=True).stdout
    messages = [json.loads(line) for line in messages.splitlines()]
    made = {message["target"]["name"]: Path(message["executable"]) for message in messages if message.get("executable")}
    return made["ddu"], made["kernels"]


def gather(folder, ddu, kernels, models, built_from):
    doctor = json.loads(subprocess.run([ddu, "doctor", "--json"], check=True, stdout=subprocess.PIPE).stdout)
    if not doctor["cuda_kernels_compiled"]:
        sys.exit(f"{ddu}: built without nvcc: set NVCC and build again")
    with tempfile.TemporaryDirectory() as stripped, tarfile.open(folder / "programs.tar.xz", "w:xz", preset=6) as archive:
        for name, program in (("ddu", ddu), ("kernels", kernels)):
            path = Path(stripped) / name
            subprocess.run(["strip", "-o", path, program], check=True)
            archive.add(path, name)
    for name in SCRIPTS:
        shutil.copy(HERE / name, folder)
    shutil.copy(ROOT / "training/network.py", folder)
    # As in the repository, so that their includes find what they name.
    for pattern in ("tests/simt/dump*.cu", "kernels/common/*.cuh"):
        for source in ROOT.glob(pattern):
            target = folder / source.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)
    (folder / "models").mkdir()
    for model in [ROOT / "assets/demo.safetensors", *models]:
        shutil.copy(model, folder / "models")
    (folder / "revision.txt").write_text(f"{built_from}\nnvcc of CUDA {doctor['nvcc_cuda_version']}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--ddu", type=Path, help="take this binary; build nothing")
    parser.add_argument("--kernels", type=Path, help="take this test program; build nothing")
    args = parser.parse_args()
    if args.out.exists():
        sys.exit(f"{args.out}: expected a folder that does not exist yet")
    for model in args.models:
        if model.suffix != ".safetensors" or not converted(model):
            sys.exit(f"{model}: expected a model that `ddu convert` wrote, MODEL.safetensors")
    built_from = revision()
    ddu, kernels = (args.ddu, args.kernels) if args.ddu and args.kernels else build()
    args.out.mkdir(parents=True)
    gather(args.out, ddu, kernels, args.models, built_from)
    files = [path for path in args.out.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    if size > LIMIT:
        shutil.rmtree(args.out)
        sys.exit(f"{size / (1 << 20):.1f} MiB: expected at most {LIMIT >> 20}; leave a model out")
    for path in files:
        print(f"{path.stat().st_size / (1 << 20):7.2f} MiB  {path}")
    print(f"{size / (1 << 20):7.2f} MiB of {LIMIT >> 20}")


if __name__ == "__main__":
    main()
