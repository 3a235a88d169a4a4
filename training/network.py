"""DeepLab-v3+ on a ResNet of any width.

The keys of its state dict are those of segmentation-models-pytorch's `DeepLabV3Plus`, and so is its
arithmetic (align_corners = True, separable convolutions in the ASPP and the decoder), so one importer
reads both. Unlike there, the widths are free.
"""

import torch
from torch import nn
from torch.nn import functional as F

BLOCKS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
}


def conv(inputs, outputs, k=3, stride=1, dilation=1, groups=1):
    padding = (k // 2) * dilation
    return nn.Conv2d(inputs, outputs, k, stride, padding, dilation, groups, bias=False)


def conv_norm_relu(inputs, outputs, k=1):
    return [conv(inputs, outputs, k), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]


def separable(inputs, outputs, dilation=1):
    return nn.Sequential(conv(inputs, inputs, 3, 1, dilation, inputs), conv(inputs, outputs, 1))


class Block(nn.Module):
    """A residual block: basic (3x3, 3x3), or bottleneck (1x1, 3x3, 1x1) with `expansion` 4."""

    def __init__(self, inputs, width, expansion, stride, dilation, project):
        super().__init__()
        outputs = width * expansion
        if expansion == 1:
            self.conv1 = conv(inputs, width, 3, stride, dilation)
            self.conv2 = conv(width, width, 3, 1, dilation)
        else:
            self.conv1 = conv(inputs, width, 1)
            self.conv2 = conv(width, width, 3, stride, dilation)
            self.conv3 = conv(width, outputs, 1)
            self.bn3 = nn.BatchNorm2d(outputs)
        self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.bottleneck = expansion != 1
        self.downsample = None
        if project:
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = self.bn2(self.conv2(y))
        if self.bottleneck:
            y = self.bn3(self.conv3(F.relu(y, inplace=True)))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)), inplace=True)


class Encoder(nn.Module):
    """The ResNet: returns the stride-4 features and the last ones."""

    def __init__(self, backbone, stem, widths, output_stride):
        super().__init__()
        expansion = 1 if backbone in ("resnet18", "resnet34") else 4
        self.conv1 = conv(3, stem, 7, 2)
        self.bn1 = nn.BatchNorm2d(stem)
        # Where the stride is taken out, every 3x3 of the stage is dilated instead, as smp does it.
        strides, dilations = ((1, 2, 2, 1), (1, 1, 1, 2)) if output_stride == 16 else ((1, 2, 1, 1), (1, 1, 2, 4))
        inputs = stem
        for i, (n, width, stride, dilation) in enumerate(zip(BLOCKS[backbone], widths, strides, dilations)):
            blocks = []
            for j in range(n):
                # smp builds the strided network first, so a stage keeps its projection either way.
                project = j == 0 and (i > 0 or inputs != width * expansion)
                stride = stride if j == 0 else 1
                blocks.append(Block(inputs, width, expansion, stride, dilation, project))
                inputs = width * expansion
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.low_level, self.outputs = widths[0] * expansion, inputs

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        low = self.layer1(F.max_pool2d(x, 3, 2, 1))
        return low, self.layer4(self.layer3(self.layer2(low)))


class Pooling(nn.Sequential):
    def __init__(self, inputs, outputs):
        super().__init__(nn.AdaptiveAvgPool2d(1), *conv_norm_relu(inputs, outputs))

    def forward(self, x):
        return super().forward(x).expand(-1, -1, *x.shape[-2:])


class Aspp(nn.Module):
    def __init__(self, inputs, outputs, rates, dropout):
        super().__init__()
        branches = [nn.Sequential(*conv_norm_relu(inputs, outputs))]
        for rate in rates:
            norm_relu = nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
            branches.append(nn.Sequential(separable(inputs, outputs, rate), *norm_relu))
        branches.append(Pooling(inputs, outputs))
        self.convs = nn.ModuleList(branches)
        project = conv_norm_relu(len(branches) * outputs, outputs)
        self.project = nn.Sequential(*project, nn.Dropout(dropout))

    def forward(self, x):
        return self.project(torch.cat([branch(x) for branch in self.convs], 1))


class Decoder(nn.Module):
    def __init__(self, inputs, low_level, channels, rates, dropout):
        super().__init__()
        norm_relu = lambda: (nn.BatchNorm2d(channels), nn.ReLU(inplace=True))
        self.aspp = nn.Sequential(
            Aspp(inputs, channels, rates, dropout), separable(channels, channels), *norm_relu()
        )
        self.block1 = nn.Sequential(*conv_norm_relu(low_level, 48))
        self.block2 = nn.Sequential(separable(48 + channels, channels), *norm_relu())

    def forward(self, low, x):
        x = F.interpolate(self.aspp(x), low.shape[-2:], mode="bilinear", align_corners=True)
        return self.block2(torch.cat([x, self.block1(low)], 1))


class DeepLabV3Plus(nn.Module):
    """Images [N, 3, H, W] (H, W divisible by the output stride) to logits [N, classes, H, W]."""

    def __init__(self, classes, backbone="resnet101", stem=64, widths=(64, 128, 256, 512),
                 output_stride=16, channels=256, rates=(6, 12, 18), dropout=0.5):
        super().__init__()
        self.encoder = Encoder(backbone, stem, widths, output_stride)
        self.decoder = Decoder(self.encoder.outputs, self.encoder.low_level, channels, rates, dropout)
        self.segmentation_head = nn.Sequential(nn.Conv2d(channels, classes, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.segmentation_head[0].bias)

    def features(self, x):
        """[N, channels, H / 4, W / 4]: what the density is fitted to."""
        return self.decoder(*self.encoder(x))

    def forward(self, x):
        logits = self.segmentation_head(self.features(x))
        return F.interpolate(logits, x.shape[-2:], mode="bilinear", align_corners=True)
