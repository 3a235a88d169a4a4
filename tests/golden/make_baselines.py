"""Makes tests/golden/baselines.safetensors: MC Dropout, a deep ensemble and the clipped entropy as PyTorch computes them.

    python make_baselines.py [--out baselines.safetensors]

Networks, weights and images are those of make_families.py (channels divided by 16); the masks of the passes are
those of src/ops/dropout.rs, whose generator (Philox4x32-10) is written here once more. The networks stay in eval
mode: only their dropouts are replaced by the masks. Stored are samples of the three maps of the mean prediction.

For the clipped entropy the image of the first size is fitted, with hashed labels (5 and 6: no class): m and s are mean and
standard deviation of each feature over its labelled cells. Stored are the limits m + s and samples of the entropy.
"""

import argparse
import importlib.util
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

HERE = Path(__file__).parent
spec = importlib.util.spec_from_file_location("make_families", HERE / "make_families.py")
families = importlib.util.module_from_spec(spec)
spec.loader.exec_module(families)

OS, SEED, PASSES = 16, 20211029, 5
SIZES = [(97, 131), (360, 480)]
MC = ["smp-resnet18", "torchvision-resnet50"]
# Other depths and another family, so other grids.
MEMBERS = ["smp-resnet18", "smp-resnet34", "torchvision-resnet50"]
CLIPPED = "smp-resnet18"


def philox(counter, key):
    """Philox4x32-10 of counters [4, n] (uint32); words [4, n]."""
    a, b, c, d = (x.astype(np.uint64) for x in counter)
    low, high = key & 0xFFFFFFFF, key >> 32
    mask, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for _ in range(10):
        first, second = np.uint64(0xD2511F53) * a, np.uint64(0xCD9E8D57) * c
        a, b, c, d = (second >> half) ^ b ^ np.uint64(low), second & mask, (first >> half) ^ d ^ np.uint64(high), first & mask
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack([a, b, c, d])


class Masked(nn.Module):
    def __init__(self, probability, place):
        super().__init__()
        self.probability, self.place, self.index = probability, place, 0

    def forward(self, x):
        _, channels, h, w = x.shape
        pixel, quad = np.meshgrid(np.arange(h * w), np.arange(-(-channels // 4)), indexing="ij")
        fixed = np.full(pixel.size, 0)
        counter = [pixel.ravel(), quad.ravel(), fixed + self.index, fixed + self.place]
        words = philox(counter, SEED).T.reshape(h, w, -1)[:, :, :channels]
        kept = words >= int(np.float32(self.probability) * 2.0**32)
        mask = torch.from_numpy(kept.transpose(2, 0, 1)).float().div_(1 - self.probability)
        return x * mask


def network(name):
    model = families.NETWORKS[name](name.split("-")[1], OS, None)
    families.shrink(model, 16)
    model.load_state_dict(families.weights(model.state_dict()))
    return model.eval()


def mean(probabilities):
    """The largest mean probability, the predictive entropy and the mutual information of [N, C, h, w] in f64."""
    entropy = lambda p: -torch.special.xlogy(p, p).sum(-3)
    p = probabilities.mean(0)
    return p.max(0).values, entropy(p), entropy(p) - entropy(probabilities).mean(0)


def clipped_entropy(golden):
    """z'_k = min(z_k, m_k + s_k), H(softmax(l(z') / 2)): features as fp16, m + s to fp16."""
    model = network(CLIPPED)
    classifier = model.get_submodule(families.LAST["smp"])
    features = []
    hook = classifier.register_forward_pre_hook(lambda m, inputs: features.append(inputs[0]))
    families.run(model, "smp", OS, *SIZES[0])
    hook.remove()
    cells = features[0][0].flatten(1).T.half().double()
    labels = (families.value("labels", len(cells)) * 7).astype(np.int64)
    fitted = cells[torch.from_numpy(labels < families.CLASSES)]
    limits = (fitted.mean(0) + fitted.std(0)).half().float()
    golden["clipped.limits"] = limits
    hook = classifier.register_forward_pre_hook(lambda m, inputs: torch.minimum(inputs[0], limits[:, None, None]))
    for h, w in SIZES:
        _, full = families.run(model, "smp", OS, h, w)
        p = (full.double() / 2).softmax(0)
        entropy = -torch.special.xlogy(p, p).sum(0)
        golden[f"clipped.{h}x{w}"] = families.samples(f"clipped.{h}x{w}", entropy)
        print("clipped", h, w, f"{entropy.min():.4f} to {entropy.max():.4f}", flush=True)
    hook.remove()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=HERE / "baselines.safetensors")
    args = parser.parse_args()
    torch.set_num_threads(1)
    golden = {}

    def keep(case, probabilities):
        for what, tensor in zip(["confidence", "pe", "mi"], mean(torch.stack(probabilities))):
            golden[f"{case}.{what}"] = families.samples(case, tensor)
            print(case, what, f"{tensor.min():.4f} to {tensor.max():.4f}", flush=True)

    def probabilities(name, model, h, w):
        _, full = families.run(model, name.split("-")[0], OS, h, w)
        return full.double().softmax(0)

    for h, w in SIZES:
        for name in MC:
            model = network(name)
            # The auxiliary head of torchvision has one too, and no part in the prediction.
            places = [key for key, m in model.named_modules() if isinstance(m, nn.Dropout) and not key.startswith("aux")]
            masks = []
            for place, key in enumerate(places):
                parent, _, child = key.rpartition(".")
                masks.append(Masked(model.get_submodule(key).p, place))
                setattr(model.get_submodule(parent), child, masks[-1])
            passes = []
            for index in range(PASSES):
                for masked in masks:
                    masked.index = index
                passes.append(probabilities(name, model, h, w))
            keep(f"{name}.{h}x{w}", passes)
        keep(f"ensemble.{h}x{w}", [probabilities(name, network(name), h, w) for name in MEMBERS])
    clipped_entropy(golden)
    save_file(golden, args.out, {"torch": torch.__version__})


if __name__ == "__main__":
    main()
