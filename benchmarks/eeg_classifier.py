"""The EEG networks of one cell of Table 1, trained and tested: by braindecode's EEGClassifier and by our runs.

The same trials, folds, networks, epochs and batches on both sides: the trunk of the recipe, which braindecode's side
takes layer by layer on signals, and the Shallow ConvNet, whose braindecode side is braindecode's own module. The cell
has ten seeds with five folds each, which runs train in one stack; with dropout, as the Shallow ConvNet has, there is no
such stack, and one seed is measured. Recordings are simulated, with the electrodes and samples of the recipe.
"""

import warnings
from functools import partial
from itertools import chain

import numpy as np
import torch
from companion.data import load
from harness import Mark, arguments, report, seconds, take_turns, where_time_goes
from papers.shin2023.power import PowerNet
from papers.shin2023.run import EPOCH_OPTIONS, alignment, folds_of, moments, together, trained
from papers.shin2023.study import specs
from torch import nn

TASK = "mi"
CLASSIFIER, OURS = "EEGClassifier, {}", "our runs, {}"


class OnSignals(nn.Module):
    """The recipe's network as braindecode's classifier takes it: (n, E, T) -> logits (n, classes)."""

    def __init__(self, n_chans, n_outputs, **options):
        super().__init__()
        self.trunk = PowerNet(n_chans, **options)
        self.head = nn.Linear(self.trunk.n_features, n_outputs)

    def forward(self, x):
        """Layer by layer, as the network is defined; `PowerNet.forward` takes moments instead."""
        y = self.trunk.norm(self.trunk.spatial(self.trunk.temporal(x[:, None]))[:, :, 0])
        return self.head(y.square().mean(2).clamp(min=1e-6).log())


def main():
    """Measure and write `eeg_classifier-*.json`."""
    args = arguments(__doc__.splitlines()[0], threads=1, repeats=5)
    sides, marks, details = {}, [], {}
    for trunk in ("power", "shallow"):
        stack = specs("small", "left-right", ("dense-single",), (1,), trunk=trunk)
        stack = stack if together(stack[0]) else stack[:1]
        p = stack[0].params
        data = load("simulated-eeg", trials_per_class=22, **{k: p[k] for k in EPOCH_OPTIONS})
        folds = [folds_of(data, spec, 1) for spec in stack]
        theirs, ours = CLASSIFIER.format(trunk), OURS.format(trunk)
        sides[theirs] = partial(by_classifier, p, data, list(chain(*folds)), args.device)
        sides[ours] = partial(trained, stack, [data] * len(stack), folds, (TASK,), args.device)
        marks.append(Mark(f"networks trained in the same time, {trunk}", theirs, ours, "at least", 8.0))
        details[trunk] = {
            "networks": sum(map(len, folds)),
            "epochs": p["epochs"],
            "trials": len(data.mi.y),
            "weights": weights_of(p, data),
        }
    found = seconds(take_turns(sides, args))
    details["profile"] = {mark.against: where_time_goes(sides[mark.against], args.device) for mark in marks}
    report("eeg_classifier", found, marks, args, details)


def network(p, data):
    """Module and arguments of braindecode's side."""
    from braindecode.models import ShallowFBCSPNet

    sizes = {"n_chans": len(data.channels), "n_outputs": len(data.classes)}
    if p["trunk"] == "power":
        return OnSignals, sizes | dict(p["options"])
    return ShallowFBCSPNet, sizes | {
        "n_times": data.mi.x.shape[2],
        "filter_time_length": p["options"]["kernel"],
    }


def weights_of(p, data):
    """Number of weights of braindecode's network."""
    module, options = network(p, data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sum(weight.numel() for weight in module(**options).parameters())


def by_classifier(p, data, folds, device):
    """Predicted classes (int array), of the last seed; no validation part, no callbacks but the schedule."""
    from braindecode import EEGClassifier
    from skorch.callbacks import LRScheduler

    warnings.simplefilter("ignore")  # braindecode's remarks on its own defaults
    module, options = network(p, data)
    trials, found = data.mi, np.zeros(len(data.mi.y), int)
    for fold in folds:
        train, test = fold[TASK]
        matrix, shift = alignment(*moments(trials.x[train].astype(np.float64)), p["align"])
        seen, unseen = ((matrix @ (trials.x[rows] - shift)).astype(np.float32) for rows in (train, test))
        steps = p["epochs"] * -(-len(train) // p["batch"])
        schedule = LRScheduler(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=steps, step_every="batch")
        classifier = EEGClassifier(
            module, optimizer=torch.optim.AdamW, lr=p["lr"], optimizer__weight_decay=p["weight_decay"],
            batch_size=p["batch"], max_epochs=p["epochs"], train_split=None, iterator_train__shuffle=True,
            callbacks=[("schedule", schedule)], verbose=0, device=device, classes=sorted(set(trials.y.tolist())),
            **{f"module__{name}": value for name, value in options.items()},
        )  # fmt: skip
        found[test] = classifier.fit(seen, trials.y[train]).predict(unseen)
    return found


if __name__ == "__main__":
    main()
