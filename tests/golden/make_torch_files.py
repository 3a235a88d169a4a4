"""Makes tests/golden/torch/*.pth: files that PyTorch itself wrote, in every form that it has.

    python make_torch_files.py

All hold smp's ResNet-18 DeepLabV3Plus, channels divided by 32, with the weights of
make_families.py. expected.safetensors holds the keys, and the eval-mode weights of the spectrally
normalised convolutions as PyTorch computes them.
"""

import json
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from make_families import shrink, smp, weights
from safetensors.torch import save_file
from torch.nn.utils import parametrizations, spectral_norm

OUT = Path(__file__).parent / "torch"
# smp's module and its canonical name.
NORMALISED = {
    "encoder.conv1": "backbone.stem",
    "encoder.layer1.0.conv1": "backbone.layer1.0.conv1",
    "decoder.aspp.0.convs.1.0.0": "aspp.1.depthwise",
}


def network():
    model = shrink(smp("resnet18", 16, None), 32)
    model.load_state_dict(weights(model.state_dict()))
    return model


def cast(state, dtype):
    return OrderedDict((key, value.to(dtype) if value.is_floating_point() else value) for key, value in state.items())


def views(state):
    """Every tensor a view of one f64 storage: convolutions channels-last, vectors with stride 2."""
    made = OrderedDict()
    flat = torch.full((2 * sum(value.numel() for value in state.values()),), float("nan"), dtype=torch.float64)
    at = 0
    for key, value in state.items():
        if value.dim() == 4:
            o, i, h, w = value.shape
            view = flat[at : at + value.numel()].view(o, h, w, i).permute(0, 3, 1, 2)
        elif value.dim() == 1:
            view = flat[at : at + 2 * value.numel() : 2]
        else:
            made[key] = value
            continue
        view.copy_(value)
        made[key] = view
        at += 2 * value.numel()
    return made


def main():
    torch.manual_seed(0)
    OUT.mkdir(exist_ok=True)
    state = network().state_dict()
    # Its name is the archive's folder; 21 letters once misled our reader.
    torch.save(state, OUT / "zip-named-in-21-chars.pth")
    torch.save(state, OUT / "legacy.pth", _use_new_zipfile_serialization=False)
    torch.save(views(state), OUT / "views-f64.pth")
    torch.serialization.set_crc32_options(False)
    torch.save(cast(state, torch.bfloat16), OUT / "zip-protocol-5-no-crc-bf16.pth", pickle_protocol=5)
    torch.serialization.set_crc32_options(True)
    # What a training script leaves: DataParallel's prefix, parameters, an optimizer, numpy, argparse.
    model = torch.nn.DataParallel(network())
    checkpoint = {
        "epoch": 7,
        "args": Namespace(lr=0.007, crop=(513, 513)),
        "state_dict": OrderedDict(
            (key, torch.nn.Parameter(value) if value.is_floating_point() else value)
            for key, value in cast(model.state_dict(), torch.float16).items()
        ),
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "best_pred": np.float64(0.5),
    }
    torch.save(checkpoint, OUT / "legacy-checkpoint-f16.pth", _use_new_zipfile_serialization=False)

    expected = {}
    for name, normalise in [("spectral-old.pth", spectral_norm), ("spectral-new.pth", parametrizations.spectral_norm)]:
        model = network()
        for module in NORMALISED:
            normalise(model.get_submodule(module))
        model.train()(torch.rand(2, 3, 64, 64))
        model.eval()(torch.rand(1, 3, 32, 32))
        for module, unit in NORMALISED.items():
            expected[f"{name}.{unit}"] = model.get_submodule(module).weight.detach().clone()
        torch.save(model.state_dict(), OUT / name)
    keys = {key: list(value.shape) for key, value in state.items()}
    save_file(expected, OUT / "expected.safetensors", {"keys": json.dumps(keys), "torch": torch.__version__})


if __name__ == "__main__":
    main()
