"""Networks as training leaves them, without training, and whether something else leaves them alone."""

import copy

import torch
from torch import nn


def settled(model, seed=0):
    """As if trained: batch norms with statistics, scales and shifts of their own; eval mode."""
    g = torch.Generator().manual_seed(seed)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
            norm.running_mean.normal_(0, 0.3, generator=g)
            norm.running_var.uniform_(0.5, 1.5, generator=g)
            nn.init.uniform_(norm.weight, 0.5, 1.5, generator=g)
            nn.init.normal_(norm.bias, 0, 0.5, generator=g)
    return model.eval()


def everything(net):
    """Weights, buffers, gradients, what is trained, modes, and the random state."""
    parameters, modes = list(net.parameters()), [module.training for module in net.modules()]
    grads, trained = [p.grad for p in parameters], [p.requires_grad for p in parameters]
    return copy.deepcopy([net.state_dict(), grads, trained, modes, torch.get_rng_state()])
