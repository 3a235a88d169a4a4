"""Soft spectral normalisation: W / max(1, sigma / coefficient), sigma by one power iteration per step.

A bound on how fast a residual network's features can change with its input keeps inputs that differ
from being mapped onto the same feature ("feature collapse"), without which a density over features
says little (Mukhoti et al. 2021, arXiv 2102.11582; Gouk et al. 2018 for the soft form).
sigma is the largest singular value of the kernel as a matrix [out, in * k * k].
"""

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrize


class SoftSpectralNorm(nn.Module):
    def __init__(self, weight, coefficient):
        super().__init__()
        self.coefficient = coefficient
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", F.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(matrix.shape[1]), dim=0))
        for _ in range(15):
            self.iterate(matrix)

    @torch.no_grad()
    def iterate(self, matrix):
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))
        self.u.copy_(F.normalize(matrix @ self.v, dim=0))

    def forward(self, weight):
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            if self.training:
                self.iterate(matrix.detach())
            # clone: the next forward overwrites u and v, which the backward pass still needs.
            sigma = self.u.clone() @ (matrix @ self.v.clone())
            return weight / torch.clamp(sigma / self.coefficient, min=1)


def soften(module, coefficient):
    """Puts soft spectral normalisation on every convolution of a module."""
    for layer in list(module.modules()):
        if isinstance(layer, nn.Conv2d):
            norm = SoftSpectralNorm(layer.weight, coefficient)
            parametrize.register_parametrization(layer, "weight", norm)


def folded(network):
    """The network's state dict with the normalisation folded into the weights."""
    plain = {}
    for name, value in network.state_dict().items():
        stem, mark, rest = name.partition(".parametrizations.")
        if not mark:
            plain[name] = value.detach().clone()
        elif rest == "weight.original":
            plain[f"{stem}.weight"] = network.get_submodule(stem).weight.detach().clone()
    return plain
