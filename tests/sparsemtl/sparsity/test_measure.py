"""Counts on zeros put in by hand."""

import pytest
import torch
from sparsemtl.errors import DataError
from sparsemtl.sparsity.measure import channels_per_layer, group_sparsity, parameter_sparsity, zero_fraction
from torch import nn


def test_sparsity_of_a_network_and_of_weights():
    """Convolutions of 2 x 4 x 3 x 3 and 3 x 2 x 1 x 1 entries, each with one input channel of zeros."""
    net = nn.Sequential(nn.Conv2d(4, 2, 3), nn.BatchNorm2d(2), nn.Conv2d(2, 3, 1), nn.Flatten(), nn.Linear(3, 2))
    net[0].weight.data[:, 1] = -0.0
    net[0].weight.data[0, 2, 0, 0] = 0
    net[2].weight.data[:, 0] = 0
    net[4].weight.data.zero_()
    for weights in (net, [net[0].weight, net[2].weight]):
        assert group_sparsity(weights) == 2 / 6
        assert parameter_sparsity(weights) == (18 + 3) / (72 + 6)
        assert zero_fraction(weights) == (18 + 1 + 3) / (72 + 6)
    assert channels_per_layer(net) == {"0": (3, 4), "2": (1, 2)}
    assert channels_per_layer(m.weight for m in (net[4],)) == {"0": (0, 3)}
    assert group_sparsity([torch.tensor([[torch.nan, 0.0, 0.0], [0.0, 0.0, 0.0]])]) == 2 / 3  # NaN is not zero


def test_input_channels_of_a_transposed_convolution_are_its_first_dimension():
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2)
    layer.weight.data[1] = 0
    assert channels_per_layer(layer) == {"": (3, 4)}
    assert group_sparsity(layer) == parameter_sparsity(layer) == 1 / 4


@pytest.mark.parametrize("measure", [group_sparsity, parameter_sparsity, zero_fraction, channels_per_layer])
def test_nothing_to_count_is_an_error(measure):
    for nothing in (nn.Linear(2, 2), []):
        with pytest.raises(DataError, match="no convolution"):
            measure(nothing)
    with pytest.raises(DataError, match="no entries"):
        group_sparsity([torch.ones(2, 0)])
