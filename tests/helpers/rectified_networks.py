"""Small networks that rectify in every way there is, for images (N, 3, 8, 8)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

__all__ = ["NETWORKS", "Branching", "Gelu", "filled", "rectified"]

CHANNELS = 4


class _Body(nn.Module):
    """Convolution, something, linear."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, CHANNELS, 3, padding=1)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.head = nn.Linear(CHANNELS, 5)

    def scores(self, features):
        return self.head(features.mean((2, 3)))


class Shared(_Body):
    """One module, called three times: three sites."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, images):
        features = self.relu(self.norm(self.first(images)))
        return self.scores(self.relu(features + self.relu(self.second(features))))


class Functional(_Body):
    """Every spelling of a ReLU that is a function or a method."""

    def forward(self, images):
        features = functional.relu(self.norm(self.first(images)))
        features = torch.relu(self.second(features))
        features = (features - 0.1).relu()
        features = (self.second(features) - 0.1).clamp(min=0)
        features = torch.clamp(self.second(features), 0.0)
        return self.scores(torch.clamp_min(self.second(features), 0))


class InPlace(_Body):
    """Rectifiers that write over their input, whose results nobody looks at."""

    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, images):
        features = self.norm(self.first(images))
        self.relu(features)
        other = self.second(features)
        functional.relu(other, inplace=True)
        again = self.second(other)
        again.relu_()
        last = self.second(again)
        last.clamp_(min=0)
        return self.scores(last)


class Relatives(_Body):
    """ReLU6, leaky ReLU, PReLU, hard tanh and hard swish, as modules and functions."""

    def __init__(self):
        super().__init__()
        self.six, self.leaky, self.prelu = nn.ReLU6(), nn.LeakyReLU(0.1), nn.PReLU(CHANNELS)
        self.tanh, self.swish = nn.Hardtanh(-0.5, 0.5), nn.Hardswish()

    def forward(self, images):
        features = self.prelu(self.leaky(self.six(self.norm(self.first(images)))))
        features = self.swish(self.tanh(self.second(features)))
        features = functional.leaky_relu(self.second(features), 0.2)
        return self.scores(functional.relu6(self.second(features)).clamp(0, 2))


class Perceptron(nn.Module):
    """Rectified vectors (N, C)."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU())

    def forward(self, images):
        return self.layers(images)


class Tokens(nn.Module):
    """Rectified tokens (N, T, C): a transformer of torch, whose fast path calls no ReLU."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        return self.head(self.layer(images.flatten(2).transpose(1, 2).reshape(-1, 24, 8)).mean(1))


class Clamped(_Body):
    """Clamps its images first: that is no activation."""

    def forward(self, images):
        images = images.clamp(min=0).clamp(0, 1)
        return self.scores(self.norm(self.first(images)).relu())


class Branching(_Body):
    """Looks at its features before it goes on, so that no graph of it exists."""

    def forward(self, images):
        features = self.norm(self.first(images))
        if features.abs().mean() > 0:
            features = features.relu()
        return self.scores(self.second(features).relu_())


class Gelu(nn.Module):
    """A transformer with GELU: nothing to bound."""

    def __init__(self):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, activation="gelu")
        self.head = nn.Linear(8, 5)

    def forward(self, images):
        return self.head(self.layer(images.flatten(2).transpose(1, 2).reshape(-1, 24, 8)).mean(1))


# What is to be found in each, in order: name, operation, number of channels.
NETWORKS = {
    Shared: [("relu", "relu", 4), ("relu:2", "relu", 4), ("relu:3", "relu", 4)],
    Functional: [
        ("relu", "relu", 4),
        ("relu:2", "relu", 4),
        ("relu:3", "relu", 4),
        ("clamp", "clamp", 4),
        ("clamp:2", "clamp", 4),
        ("clamp:3", "clamp", 4),
    ],
    InPlace: [("relu", "relu", 4), ("relu:2", "relu", 4), ("relu:3", "relu", 4), ("clamp", "clamp", 4)],
    Relatives: [
        ("six", "relu6", 4),
        ("leaky", "leaky_relu", 4),
        ("prelu", "prelu", 4),
        ("tanh", "hardtanh", 4),
        ("swish", "hardswish", 4),
        ("leaky_relu", "leaky_relu", 4),
        ("relu6", "relu6", 4),
        ("clamp", "clamp", 4),
    ],
    Perceptron: [("layers.2", "relu", 6), ("layers.4", "relu", 5)],
    Tokens: [("layer.relu", "relu", 12)],
    Clamped: [("relu", "relu", 4)],
    Branching: [("relu", "relu", 4), ("relu:2", "relu", 4)],
}


def filled(network, seed=0):
    """Return the network in evaluation mode with weights, and statistics of batch norm, from a seed."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if name.endswith("running_var"):
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / 2)
    return network.eval()


def rectified(kind, seed=0):
    """Return a network of one of the kinds."""
    return filled(kind(), seed)
