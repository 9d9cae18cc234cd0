"""The training loop: `fit` for one network, `fit_stack` for networks of one architecture side by side."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from sparsemtl.errors import SparseMTLError, SpecError
from sparsemtl.sparsity.masks import MASK

Batch = tuple[Any, Any]  # (inputs, targets): tensors, or dicts of tensors
ROW = 64  # a multiple of it is what fused optimizers step in full vectors: those round what is left over otherwise


def fit(
    model: nn.Module, batches: Callable[[int], Iterable[Batch]], loss_fn: Callable[[Any, Any], Tensor],
    optimizer: torch.optim.Optimizer, epochs: int, after_step: Callable[[int, Any, Any], object] | None = None, *,
    start: int = 0, after_epoch: Callable[[int], object] | None = None,
    context: Callable[[], AbstractContextManager] = nullcontext,
) -> list[float]:  # fmt: skip
    """Train a network in place.

    Parameters
    ----------
    model, optimizer
        The network, put into training mode for each epoch, and what steps its parameters.
    batches : callable
        Epoch number -> iterable of (inputs, targets).
    loss_fn : callable
        (model(inputs), targets) -> scalar tensor.
    start, epochs : int
        Numbers of the first epoch (above 0 if a run resumes), and of the last plus 1.
    after_step, after_epoch : callable, optional
        Called with (step, inputs, targets) after every optimizer step, for methods that change masks while training,
        and with the epoch's number; training ends when the latter returns True.
    context : callable
        Makes the context of forward pass and loss, for autocast.

    Returns
    -------
    list of float
        Mean loss of each epoch; one that is not finite raises SparseMTLError.
    """
    history: list[float] = []
    step = 0
    for epoch in range(start, epochs):
        model.train()
        losses = []
        for inputs, targets in batches(epoch):
            optimizer.zero_grad(set_to_none=True)
            with context():
                loss = loss_fn(model(inputs), targets)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
            if after_step is not None:
                after_step(step, inputs, targets)
            step += 1
        history.append(torch.stack(losses).mean().item())
        if not torch.isfinite(torch.tensor(history[-1])):
            raise diverged(history[-1], epoch)
        if after_epoch is not None and after_epoch(epoch):
            break
    return history


def diverged(loss: float, epoch: int) -> SparseMTLError:
    """The error of a training whose mean loss in an epoch is not finite."""
    return SparseMTLError(f"the loss is {loss} in epoch {epoch}: lower the learning rate")


def fit_stack(
    models: Sequence[nn.Module], batches: Callable[[int], Iterable[Sequence[Batch] | Batch]],
    loss_fn: Callable[[Any, Any], Tensor], make_optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    epochs: int, *, seed: int = 0, after_step: Callable[[int, Any], object] | None = None,
    after_epoch: Callable[[int], object] | None = None, stacked: bool = False,
) -> list[list[float]]:  # fmt: skip
    """Train networks of one architecture side by side, each on its own data, in place.

    One vectorised pass (`torch.vmap`) serves all networks, so that on a GPU many small ones take little longer than
    one. Masks on the networks (`apply_masks`) hold. The result depends on the arguments alone, to the last bit on one
    machine; the random state of the caller is left alone.

    Parameters
    ----------
    models : sequence of torch.nn.Module
        Networks of equal architecture that `torch.vmap` can run, such as `DualTaskNet`.
    batches : callable
        Epoch number -> iterable of steps; a step is one (inputs, targets) for each network, of equal shapes.
    loss_fn : callable
        (model(inputs), targets) -> scalar tensor, for one network.
    make_optimizer : callable
        Parameters (the weights of one name of all networks in a row) -> optimizer that works element by element, such
        as `partial(torch.optim.Adam, lr=1e-3)`.
    epochs, seed : int
        Number of epochs; seed of the networks' random draws (dropout), which differ.
    after_step, after_epoch : callable, optional
        As in `fit`, the former called with (step, the step's batches); it may put new masks on `models`.
    stacked : bool
        A step is one (inputs, targets) for all networks, whose tensors have a first axis more: the networks.

    Returns
    -------
    list of list of float
        For each network its mean loss by epoch.

    Raises
    ------
    SparseMTLError
        The loss of a network is not finite; SpecError: networks or batches of one step differ in shape.
    """
    history: list[list[float]] = []
    stack = _Stack(models, loss_fn)

    def after(number, _, step):
        stack.enforce_masks()
        if after_step is not None:
            after_step(number, step)
            stack.read_masks()

    def end(epoch):
        history.append(torch.stack(stack.losses).mean(0).tolist())
        stack.losses.clear()
        return after_epoch is not None and after_epoch(epoch)

    def steps(epoch):
        return ((step if stacked else _joined(step), step) for step in batches(epoch))

    optimizer = make_optimizer([*stack.parameters()])
    with torch.random.fork_rng({p.device for p in stack.parameters() if p.device.type == "cuda"}):
        torch.manual_seed(seed)
        try:
            fit(stack, steps, lambda losses, _: losses.sum(), optimizer, epochs, after, after_epoch=end)
        finally:
            stack.part()
    return [list(own) for own in zip(*history, strict=True)]


class _Stack(nn.Module):
    """Networks as one module: weights and buffers along a new first axis, of which the networks' own become views."""

    def __init__(self, models: Sequence[nn.Module], loss_fn: Callable[[Any, Any], Tensor]):
        super().__init__()
        self._models, self._loss_fn = tuple(models), loss_fn  # a tuple hides their parameters, which are views
        self._parts = [_tensors(model) for model in models]
        shapes = [{name: tensor.shape for name, tensor in part.items()} for part in self._parts]
        if any(other != shapes[0] for other in shapes):
            raise SpecError("fit_stack: the networks differ in architecture; give networks of one")
        self.losses: list[Tensor] = []
        self._whole: dict[str, Tensor] = {}
        self._rows: dict[str, nn.Parameter] = {}  # what is trained: the weights of all networks, then zeros
        for name, own in self._parts[0].items():
            whole = torch.stack([part[name].detach() for part in self._parts])
            if own.requires_grad:
                row = torch.cat([whole.flatten(), whole.new_zeros(-whole.numel() % ROW)])
                whole = row[: whole.numel()].view_as(whole)
                self._rows[name] = nn.Parameter(row)
            for part, view in zip(self._parts, whole, strict=True):
                part[name].data = view
            self._whole[name] = whole
        self._trained = nn.ParameterList(self._rows.values())
        self.read_masks()

    def train(self, mode: bool = True) -> "_Stack":
        """Put the networks into training mode, or out of it."""
        for model in self._models:
            if model.training is not mode:  # a walk through many networks takes a tenth of an epoch
                model.train(mode)
        return super().train(mode)

    def forward(self, batch: Batch) -> Tensor:
        """Loss of each network (K,) for its own part of (inputs, targets), which `losses` keeps."""

        def loss(tensors, batch):
            return self._loss_fn(functional_call(self._models[0], tensors, (batch[0],)), batch[1])

        rows = ((name, row, self._whole[name]) for name, row in self._rows.items())
        trained = {name: row[: whole.numel()].view_as(whole) for name, row, whole in rows}
        found = torch.vmap(loss, randomness="different")(self._whole | trained, batch)
        self.losses.append(found.detach())
        return found

    def read_masks(self) -> None:
        """Note which weights are pruned: to ask every network in every step takes longer than small ones train."""
        self._pruned: dict[str, Tensor] = {}
        for k, (model, part) in enumerate(zip(self._models, self._parts, strict=True)):
            names = {tensor: name for name, tensor in part.items()}
            for module in (module for module in model.modules() if MASK in module._buffers):
                name = names[module.get_parameter("weight")]
                none = torch.zeros_like(self._whole[name], dtype=torch.bool)
                self._pruned.setdefault(name, none)[k] = module.get_buffer(MASK)

    @torch.no_grad()
    def enforce_masks(self) -> None:
        """Set the pruned weights of all networks to zero again."""
        for name, pruned in self._pruned.items():
            self._whole[name].masked_fill_(pruned, 0)

    def part(self) -> None:
        """Give the networks tensors of their own again."""
        for tensor in (tensor for part in self._parts for tensor in part.values()):
            tensor.data = tensor.detach().clone()


def _joined(step: Sequence[Batch]) -> Batch:
    """The networks' batches as one."""
    try:
        return pytree.tree_map(lambda *each: torch.stack(each), *step)
    except (RuntimeError, ValueError) as error:
        raise SpecError("fit_stack: a step's batches differ in shape; give each network as many samples") from error


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, without masks."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor for name, tensor in named if name.rpartition(".")[2] != MASK}
