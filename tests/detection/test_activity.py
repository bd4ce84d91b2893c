"""What is listened to: means and maxima of the units at the last site of each of the last three resolutions."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from auditkit.detection import activity, activity_sites
from auditkit.testing import toy_model


class Pyramid(nn.Module):
    """Four resolutions, two sites at each of the last two, and a hidden layer."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3 if at == 0 else 4, 4, 3, padding=1) for at in range(6))
        self.hidden, self.head = nn.Linear(16, 8), nn.Linear(8, 4)

    def forward(self, images):
        values, kept = images, []
        for number, layer in enumerate(self.convolutions):
            values = torch.relu(layer(values))
            kept.append(values)
            if number in (0, 1, 3):
                values = nn.functional.avg_pool2d(values, 2)
        self.kept = kept
        return self.head(torch.relu(self.hidden(values.flatten(1))))


@pytest.fixture
def images():
    return torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model(images):
    torch.manual_seed(0)
    return toy_model(Pyramid().eval(), images)


def test_the_last_site_of_each_of_the_last_three_resolutions(model):
    assert [model.sites[number].shape for number in activity_sites(model.sites)] == [(4, 8, 8), (4, 4, 4), (4, 2, 2)]
    assert activity_sites(model.sites) == (1, 3, 5)


def test_the_features_are_means_and_maxima(model, images):
    network = Pyramid().eval()
    network.load_state_dict(model.exact.network.network.state_dict())
    with torch.no_grad():
        network(images)
    wanted = torch.cat(
        [part for at in (1, 3, 5) for part in (network.kept[at].mean((2, 3)), network.kept[at].amax((2, 3)))], 1
    )
    torch.testing.assert_close(activity(model.watched, model.sites, images).float(), wanted)


@pytest.mark.parametrize("batch", [1, 2, 16])
def test_an_images_features_do_not_depend_on_its_batch(model, images, batch):
    wanted = activity(model.watched, model.sites, images)
    assert torch.equal(activity(replace(model.watched, batch=batch), model.sites, images), wanted)
    assert torch.equal(activity(model.watched, model.sites, images.flip(0)).flip(0), wanted)


def test_a_network_of_vectors_is_listened_to_as_well():
    images = torch.rand(5, 1, 4, 4)
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)]
    model = toy_model(nn.Sequential(*layers), images)
    assert activity(model.watched, model.sites, images).shape == (5, 2 * 4)


def test_no_image_has_no_features(model, images):
    assert activity(model.watched, model.sites, images[:0]).shape == (0, 24)
