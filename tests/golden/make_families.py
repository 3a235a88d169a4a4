"""Makes tests/golden/families/*.safetensors: what the real code of the four families computes.

    python make_families.py --vainf DIR --jfzhang95 DIR [--shrink 16] [--out families] [NAME ...]

torchvision and segmentation-models-pytorch come from their packages; DIR are clones of
github.com/VainF/DeepLabV3Plus-Pytorch and github.com/jfzhang95/pytorch-deeplab-xception.

Weights and images come from an integer hash that the Rust test repeats bit for bit (`value` below,
tests/import/generate.rs), so a golden holds only the keys with their shapes and samples of the
results. `--shrink N` divides every channel count by N, in place, in the real modules; 1 is the
published network. `--export DIR` also saves each state dict as its family would.
"""

import argparse
import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

CLASSES = 5
SAMPLES = 512
SIZES = [(513, 513), (360, 480), (97, 131)]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def value(key, count):
    """Uniform f64 in [0, 1) from FNV-1a of the key and splitmix64 of the index."""
    seed = 0xCBF29CE484222325
    for byte in key.encode():
        seed = ((seed ^ byte) * 0x100000001B3) % 2**64
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / 2**24


def weights(state):
    """Weights that keep activations of order one through the deepest network."""
    last = "bn3.weight" if any("bn3" in key for key in state) else "bn2.weight"
    made = {}
    for key, old in state.items():
        if key.endswith("num_batches_tracked"):
            made[key] = torch.zeros_like(old)
            continue
        u = value(key, old.numel())
        if old.dim() == 4:
            v = (2 * u - 1) * math.sqrt(6 / old[0].numel())
        elif key.endswith("running_var"):
            v = 0.5 + u
        elif key.endswith("weight"):
            # The residual branch adds little, or 33 blocks would add up to infinity.
            v = (0.5 + u) * (0.1 if re.search(rf"layer\d\.\d+\.{last}$", key) else 1)
        else:
            v = u - 0.5
        made[key] = torch.from_numpy(v.astype(np.float32)).reshape(old.shape)
    return made


def image(h, w):
    """An RGB8 image [h, w, 3]."""
    return (value(f"image {h} x {w}", h * w * 3) * 256).astype(np.uint8).reshape(h, w, 3)


def shrink(model, factor):
    """Divides the channels of every convolution and norm, the image's and the classes' aside."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            depthwise = module.groups > 1
            if module.in_channels != 3:
                module.in_channels //= factor
            if module.out_channels != CLASSES:
                module.out_channels //= factor
            module.groups = module.in_channels if depthwise else 1
            shape = (module.out_channels, module.in_channels // module.groups, *module.kernel_size)
            module.weight = nn.Parameter(torch.empty(shape))
        elif isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.num_features //= factor
            for name in ("weight", "bias"):
                setattr(module, name, nn.Parameter(torch.empty(module.num_features)))
            for name in ("running_mean", "running_var"):
                setattr(module, name, torch.empty(module.num_features))
    return model


def smp(backbone, os, _):
    import segmentation_models_pytorch as smp

    return smp.DeepLabV3Plus(backbone, encoder_weights=None, classes=CLASSES, encoder_output_stride=os)


def smp_dense(backbone, os, _):
    import segmentation_models_pytorch as smp

    return smp.DeepLabV3Plus(
        backbone, encoder_weights=None, classes=CLASSES, encoder_output_stride=os, decoder_aspp_separable=False
    )


def torchvision(backbone, os, _):
    from torchvision.models import resnet
    from torchvision.models.segmentation.deeplabv3 import _deeplabv3_resnet

    body = getattr(resnet, backbone)(weights=None, replace_stride_with_dilation=[False, os == 8, True])
    return _deeplabv3_resnet(body, CLASSES, aux=True)


def vainf(backbone, os, args):
    sys.path.insert(0, str(args.vainf))
    import network

    return network.modeling.__dict__[f"deeplabv3plus_{backbone}"](CLASSES, os, pretrained_backbone=False)


def vainf_separable(backbone, os, args):
    model = vainf(backbone, os, args)
    import network

    network.convert_to_separable_conv(model.classifier)
    return model


def jfzhang95(backbone, os, args):
    sys.path.insert(0, str(args.jfzhang95))
    from modeling import backbone as package
    from modeling.backbone import resnet
    from modeling.deeplab import DeepLab

    layers = {"resnet50": [3, 4, 6, 3], "resnet101": [3, 4, 23, 3]}[backbone]
    # Its own constructor insists on downloading ImageNet weights.
    package.resnet.ResNet101 = lambda stride, norm: resnet.ResNet(resnet.Bottleneck, layers, stride, norm, False)
    return DeepLab("resnet", os, CLASSES, sync_bn=False)


NETWORKS = {
    "smp-resnet18": smp,
    "smp-resnet34": smp,
    "smp-resnet50": smp,
    "smp-resnet101": smp,
    "smp_dense-resnet18": smp_dense,
    "torchvision-resnet50": torchvision,
    "torchvision-resnet101": torchvision,
    "vainf-resnet50": vainf,
    "vainf-resnet101": vainf,
    "vainf_separable-resnet50": vainf_separable,
    "jfzhang95-resnet50": jfzhang95,
    "jfzhang95-resnet101": jfzhang95,
}
LAST = {
    "smp": "segmentation_head.0",
    "torchvision": "classifier.4",
    "vainf": "classifier.classifier.3",
    "jfzhang95": "decoder.last_conv.8",
}
NEST = {"vainf": "model_state", "jfzhang95": "state_dict"}


def run(model, family, os, h, w):
    """Logits on the grid [C, gh, gw] and at input size [C, h, w]."""
    x = torch.from_numpy(image(h, w)).permute(2, 0, 1).float() / 255
    x = (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    if family == "smp":  # takes whole strides only
        x = nn.functional.pad(x, (0, -w % os, 0, -h % os))
    grid = []
    hook = model.get_submodule(LAST[family]).register_forward_hook(lambda m, i, o: grid.append(o[0]))
    with torch.inference_mode():
        full = model(x[None])
    hook.remove()
    full = full["out"] if isinstance(full, dict) else full
    return grid[0], full[0, :, :h, :w]


def samples(key, tensor):
    """Values at hashed places of a tensor [h, w, ...]."""
    flat = tensor.contiguous().flatten()
    return flat[torch.from_numpy((value(key, SAMPLES) * flat.numel()).astype(np.int64))].float()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--vainf", type=Path, required=True)
    parser.add_argument("--jfzhang95", type=Path, required=True)
    parser.add_argument("--shrink", type=int, default=16)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "families")
    parser.add_argument("--export", type=Path)
    parser.add_argument("names", nargs="*", default=list(NETWORKS))
    args = parser.parse_args()
    torch.set_num_threads(2)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        family, backbone = name.split("-")
        family = family.split("_")[0]
        golden = {}
        for os in (8, 16):
            model = NETWORKS[name](backbone, os, args)
            if args.shrink > 1:
                shrink(model, args.shrink)
            state = weights(model.state_dict())
            model.load_state_dict(state)
            model.eval()
            for h, w in SIZES:
                case = f"{os}.{h}x{w}"
                grid, full = run(model, family, os, h, w)
                log_p = torch.log_softmax(full.double(), 0)
                entropy = -(log_p.exp() * log_p).sum(0)
                golden[f"{case}.logits"] = samples(case, grid.permute(1, 2, 0))
                golden[f"{case}.max"] = grid.abs().max().view(1)
                golden[f"{case}.entropy"] = samples(case, entropy)
                print(name, case, f"max |logit| {grid.abs().max():.3f}, entropy {entropy.min():.3f} to {entropy.max():.3f}", flush=True)
        if args.export:
            args.export.mkdir(parents=True, exist_ok=True)
            saved = {NEST[family]: state, "epoch": 3} if family in NEST else state
            torch.save(saved, args.export / f"{name}.pth")
        keys = {key: list(tensor.shape) for key, tensor in state.items()}
        meta = {"keys": json.dumps(keys), "torch": torch.__version__, "shrink": str(args.shrink)}
        save_file(golden, args.out / f"{name}.safetensors", meta)


if __name__ == "__main__":
    main()
