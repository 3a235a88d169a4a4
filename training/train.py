"""Trains a DeepLab-v3+ for ddu on a dataset in VOC layout. The defaults are the paper's settings
(arXiv 2111.00079); README.md has a command for each use."""

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from data import VOID, Voc, class_names
from network import DeepLabV3Plus
from spectral import folded, soften


def arguments():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--data", required=True, help="dataset root (VOC layout, with classes.txt)")
    p.add_argument("--split", default="train")
    p.add_argument("--val-split", default="val")
    p.add_argument("--leave-out", default="", help="classes whose pixels become void, a,b")
    p.add_argument("-o", "--output", required=True, help="folder of checkpoints and exports")
    p.add_argument("--backbone", default="resnet101")
    p.add_argument("--stem", type=int, default=64, help="channels of the 7x7 stem")
    p.add_argument("--widths", type=int, nargs=4, default=(64, 128, 256, 512), help="of the stages")
    p.add_argument("--channels", type=int, default=256, help="of the ASPP and the feature")
    p.add_argument("--atrous-rates", type=int, nargs=3, default=(6, 12, 18))
    p.add_argument("--output-stride", type=int, choices=(8, 16), default=16)
    p.add_argument("--pretrained", help="a torchvision ResNet's state dict for the encoder")
    p.add_argument("--epochs", type=int, default=50)
    p.add_argument("--batch", type=int, default=16)
    p.add_argument("--crop", type=int, nargs=2, default=(513, 513), metavar=("W", "H"))
    p.add_argument("--scale", type=float, nargs=2, default=(0.5, 2.0), help="range of random sizes")
    p.add_argument("--lr", type=float, default=0.007, help="of the encoder; the rest has ten times it")
    p.add_argument("--momentum", type=float, default=0.9)
    p.add_argument("--weight-decay", type=float, default=5e-4)
    p.add_argument("--power", type=float, default=0.9, help="of the poly decay")
    p.add_argument("--spectral", type=float, default=3.0, help="coefficient on the encoder; 0: none")
    p.add_argument("--dropout", type=float, default=0.5)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--members", type=int, default=1, help="networks to train, seeds seed, seed + 1 ..")
    p.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    p.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    p.add_argument("--threads", type=int, help="CPU threads of PyTorch")
    p.add_argument("--workers", type=int, default=2, help="processes that load images")
    return p.parse_args()


def train(args, seed, folder, keep, relabel):
    """Trains one network; continues from `folder`/last.pth where that exists."""
    torch.manual_seed(seed)
    network = DeepLabV3Plus(len(keep), args.backbone, args.stem, args.widths, args.output_stride,
                            args.channels, args.atrous_rates, args.dropout)
    if args.pretrained:
        weights = torch.load(args.pretrained, weights_only=True, map_location="cpu")
        weights = {k: v for k, v in weights.items() if not k.startswith("fc.")}
        network.encoder.load_state_dict(weights)
    if args.spectral:
        soften(network.encoder, args.spectral)
    network.to(args.device, memory_format=torch.channels_last)
    head = [p for name, p in network.named_parameters() if not name.startswith("encoder.")]
    groups = [{"params": network.encoder.parameters(), "factor": 1},
              {"params": head, "factor": 10}]
    optimiser = torch.optim.SGD(groups, args.lr, args.momentum, weight_decay=args.weight_decay)
    data = Voc(args.data, args.split, relabel, args.crop, args.scale, seed)
    # BatchNorm cannot learn from a last batch of one.
    steps = max(1, len(data) // args.batch)
    first, last = 0, folder / "last.pth"
    if last.exists():
        state = torch.load(last, weights_only=True, map_location=args.device)
        other = {k: v for k, v in state["settings"].items() if settings(args)[k] != v}
        if other:
            raise SystemExit(f"{last}: was made with other settings ({other}); choose another -o")
        network.load_state_dict(state["network"])
        optimiser.load_state_dict(state["optimiser"])
        first = state["epoch"]
    for epoch in range(first, args.epochs):
        # Order, augmentation and dropout follow from seed and epoch alone: see data.py.
        torch.manual_seed(seed * 100_003 + epoch)
        data.epoch = epoch
        loader = DataLoader(data, args.batch, shuffle=True, drop_last=len(data) >= args.batch,
                            num_workers=args.workers)
        network.train()
        total = 0.0
        bar = tqdm(loader, f"seed {seed}, epoch {epoch + 1}/{args.epochs}", disable=None)
        for i, (x, y) in enumerate(bar):
            rate = args.lr * (1 - (epoch * steps + i) / (args.epochs * steps)) ** args.power
            for group in optimiser.param_groups:
                group["lr"] = rate * group["factor"]
            x = x.to(args.device, memory_format=torch.channels_last)
            with torch.autocast(args.device.split(":")[0], torch.bfloat16, enabled=args.bf16):
                logits = network(x)
            loss = F.cross_entropy(logits.float(), y.to(args.device), ignore_index=VOID)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
            total += loss.item()
            bar.set_postfix(loss=f"{total / (i + 1):.3f}", lr=f"{rate:.1e}")
        if not np.isfinite(total):
            raise SystemExit(f"epoch {epoch + 1}: the loss is {total}; try a lower --lr")
        save(last, {"epoch": epoch + 1, "settings": settings(args),
                    "network": network.state_dict(), "optimiser": optimiser.state_dict()})
        print(f"epoch {epoch + 1}: loss {total / steps:.4f}", flush=True)
        if (epoch + 1) % 5 == 0 or epoch + 1 == args.epochs:
            accuracy, iou = evaluate(args, network, keep, relabel)
            print(f"epoch {epoch + 1}: val pixel accuracy {accuracy:.4f}, mIoU {np.nanmean(iou):.4f}",
                  flush=True)
    return network


def settings(args):
    """What decides the result: a checkpoint is continued only with the same."""
    free = {"output", "device", "threads", "workers", "members", "seed"}
    return {k: list(v) if isinstance(v, tuple) else v for k, v in vars(args).items() if k not in free}


def save(path, value):
    torch.save(value, f"{path}.part")
    os.replace(f"{path}.part", path)


@torch.no_grad()
def evaluate(args, network, keep, relabel):
    network.eval()
    counts = np.zeros((len(keep), len(keep)), np.int64)
    for x, y in DataLoader(Voc(args.data, args.val_split, relabel), 1, num_workers=args.workers):
        guess = network(x.to(args.device)).argmax(1).cpu()
        known = y != VOID
        pairs = y[known] * len(keep) + guess[known]
        counts += np.bincount(pairs.numpy(), minlength=counts.size).reshape(counts.shape)
    hit = np.diag(counts)
    with np.errstate(invalid="ignore"):
        return hit.sum() / counts.sum(), hit / (counts.sum(0) + counts.sum(1) - hit)


def export(network, path, names, args):
    """Weights of convolutions are rounded to f16 (ddu then stores them in half the space, and what
    was measured is what runs); norms and biases stay f32. The weights do not tell the output stride
    and the atrous rates: they lie beside them."""
    weights = folded(network.cpu())
    for name, value in weights.items():
        if value.dim() == 4:
            weights[name] = value.half().float().contiguous()
    save(path, {"state_dict": weights, "output_stride": args.output_stride,
                "atrous_rates": list(args.atrous_rates)})
    Path(path).with_suffix(".classes.txt").write_text("".join(f"{n}\n" for n in names))


def main():
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    names, gone = class_names(args.data), [n for n in args.leave_out.split(",") if n]
    if unknown := [n for n in gone if n not in names]:
        raise SystemExit(f"--leave-out: no class {unknown[0]} among {', '.join(names)}")
    keep = [n for n in names if n not in gone]
    relabel = np.full(256, VOID, np.int64)
    for i, name in enumerate(names):
        relabel[i] = keep.index(name) if name in keep else VOID
    output = Path(args.output)
    for seed in range(args.seed, args.seed + args.members):
        folder = output / f"seed-{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        export(train(args, seed, folder, keep, relabel), output / f"seed-{seed}.pth", keep, args)
        print(f"wrote {output / f'seed-{seed}.pth'}")


if __name__ == "__main__":
    main()
