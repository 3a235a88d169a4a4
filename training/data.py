"""A dataset in VOC layout, with the augmentation of the DeepLab recipes: random scale, crop and flip.

Everything random about a sample follows from (seed, epoch, index), so a resumed run sees what an
uninterrupted one sees, with any number of workers.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
VOID = 255


def class_names(root):
    return (Path(root) / "classes.txt").read_text().split("\n")[:-1]


class Voc(Dataset):
    """`relabel` is a table of 256 entries: the mask's value to the class trained on, or VOID."""

    def __init__(self, root, split, relabel, crop=None, scale=(0.5, 2.0), seed=0):
        root = Path(root)
        self.stems = (root / f"ImageSets/Segmentation/{split}.txt").read_text().split()
        if not self.stems:
            raise SystemExit(f"{root}: the split {split} lists no image")
        self.root, self.relabel, self.crop, self.scale, self.seed = root, relabel, crop, scale, seed
        self.epoch = 0
        files = {p.stem: p for p in (root / "JPEGImages").iterdir()}
        missing = [s for s in self.stems if s not in files]
        if missing:
            raise SystemExit(f"{root}/JPEGImages: no image of {missing[0]} ({len(missing)} missing)")
        self.images = [files[s] for s in self.stems]

    def __len__(self):
        return len(self.stems)

    def __getitem__(self, i):
        image = Image.open(self.images[i]).convert("RGB")
        mask = Image.open(self.root / "SegmentationClass" / f"{self.stems[i]}.png")
        if self.crop is None:
            # Validation is at native size; it must divide by 16.
            size = tuple(-(-s // 16) * 16 for s in image.size)
            return self.cut(image, mask, (0, 0, *size))
        random = np.random.default_rng((self.seed, self.epoch, i))
        factor = np.exp(random.uniform(*np.log(self.scale)))
        size = [max(1, round(s * factor)) for s in image.size]
        image = image.resize(size, Image.Resampling.BILINEAR)
        mask = mask.resize(size, Image.Resampling.NEAREST)
        left, top = (int(random.integers(0, max(0, s - c) + 1)) for s, c in zip(size, self.crop))
        image, mask = self.cut(image, mask, (left, top, left + self.crop[0], top + self.crop[1]))
        if random.random() < 0.5:
            image, mask = image.flip(-1), mask.flip(-1)
        return image, mask

    def cut(self, image, mask, box):
        """Both at a box that may reach outside: there, the mean colour and void."""
        w, h = box[2] - box[0], box[3] - box[1]
        pixels = np.asarray(image, np.float32)[box[1]:box[3], box[0]:box[2]]
        labels = self.relabel[np.asarray(mask)[box[1]:box[3], box[0]:box[2]]]
        x = np.zeros((h, w, 3), np.float32)
        y = np.full((h, w), VOID, np.int64)
        x[: pixels.shape[0], : pixels.shape[1]] = (pixels / 255 - MEAN) / STD
        y[: labels.shape[0], : labels.shape[1]] = labels
        return torch.from_numpy(x.transpose(2, 0, 1).copy()), torch.from_numpy(y)
