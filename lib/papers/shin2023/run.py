"""One run of the EEG study: every trial of a person is predicted by a network that was trained on other trials.

Nothing of a test fold touches alignment, masks or training, and no choice is made by its score: every network is
trained for a fixed number of epochs. The loss on unseen trials along the way is only written down.
"""

import base64
import copy
import json
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from companion.data import load
from companion.data.eeg import recording_folds, stratified_folds
from companion.spec import canonical_json, check_values
from papers.shin2023.study import CLASSICAL, LOSS_STEP, METHODS, PROPOSED, PUBLISHED_SPARSITY, RULES, TASKS
from scipy.special import logsumexp
from sparsemtl.errors import DataError, SpecError, needs
from sparsemtl.models.eeg import DualTaskNet, init_weights
from sparsemtl.models.power import PowerNet, lag_moments
from sparsemtl.sparsity.masks import iou, sparsity_of
from sparsemtl.sparsity.saliency import prunable
from sparsemtl.training.fit import fit_stack
from sparsemtl.training.metrics import accuracy, confusion_matrix, macro_f1
from sparsemtl.training.pruning import PROCEDURES, Job, task_scores, votes
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

SINGLE = ("dense-single", "snip-single")  # one network for each task
CURVES = ("dense-multi", PROPOSED)  # methods whose records keep the losses along the training
POINTS = 10  # of a curve
POWER = ("power", "mixed")  # trunks that take moments of trials
HOP = 0.25  # seconds between the crops of a trial that are averaged at test
EPOCH_OPTIONS = ("subject", "problem", "fmin", "fmax", "tmin", "tmax", "sfreq", "channels")
OWN_OPTIONS = ("allow_missing_runs", "trials_per_class", "shared")


def run(spec, root=None, device="cpu"):
    """Result of one spec (dict): metrics, prediction and loss of each trial, and of networks their sparsity and layers.

    Raises `SpecError` for a spec that cannot run, `DataError` for recordings that do not fit it.
    """
    return run_all([spec], root, device)[0]


def together(spec):
    """The same for specs whose networks train in one stack, as they differ in their seed alone; None for no such specs.

    A step of small networks takes as long for five as for ten. With dropout a network would depend on the others.
    """
    p = spec.params
    if spec.method in CLASSICAL or p.get("trunk") not in POWER or "dropout" in p.get("options", ()):
        return None
    return canonical_json(spec.to_dict() | {"seed": None})


def run_all(specs, root=None, device="cpu"):
    """Results of specs that are run `together` (list), each as `run` gives it."""
    spec, p = specs[0], specs[0].params
    if spec.method not in CLASSICAL and spec.method not in PROCEDURES:
        raise SpecError(f"unknown method {spec.method!r}: choose one of {', '.join(METHODS)}")
    check_values(p, RULES)
    if p["sparsity"] and not METHODS[spec.method].sparse:
        raise SpecError(f"sparsity is {p['sparsity']}: {spec.method} has no masks, it runs at 0 alone")
    loaded = load(spec.data, root, **{k: p[k] for k in (*EPOCH_OPTIONS, *OWN_OPTIONS) if k in p})
    repeats = p.get("repeats", 1)
    data = [relabelled(loaded, own) for own in specs]
    folds = [folds_of(own, spec, repeats) for own, spec in zip(data, specs, strict=True)]
    if spec.method in CLASSICAL:
        decode = partial(decoded, spec.method, len(data[0].classes))
        outcomes = [
            [{"logits": {t: decode(getattr(own, t), *rows) for t, rows in fold.items()}} for fold in parts]
            for own, parts in zip(data, folds, strict=True)
        ]
    else:
        groups = [(task,) for task in loaded.tasks] if spec.method in SINGLE else [loaded.tasks]
        found = [trained(specs, data, folds, tasks, device) for tasks in groups]
        outcomes = [[joined(parts) for parts in zip(*own, strict=True)] for own in zip(*found, strict=True)]
    return [assembled(*each, repeats) for each in zip(outcomes, data, folds, strict=True)]


def folds_of(data, spec, repeats):
    """The folds of a spec, drawn by its seed; as many trials are in each fold of one number whatever the seed."""
    p = spec.params
    if p["problem"] == "four-class":  # its classes do not share their recordings: each is held out whole
        return recording_folds(data) * repeats
    return [fold for k in range(repeats) for fold in stratified_folds(data, p["folds"], repeats * spec.seed + k)]


def joined(parts):
    """The outcome of a fold from those of its networks: one for both tasks, or one for each."""
    whole = {key: {task: own for part in parts for task, own in part[key].items()} for key in ("logits", "train")}
    return parts[0] | whole | {"sparsity": mean_of([part["sparsity"] for part in parts])}


def relabelled(data, spec):
    """The data with the labels that the spec asks for: true, shuffled within recordings, or the recording itself."""
    labels, made = spec.params["labels"], {}
    if labels == "true":
        return data
    rng = np.random.default_rng(spec.seed)
    for task in data.tasks:
        trials = getattr(data, task)
        numbers, y = np.unique(trials.recording, return_inverse=True)
        if labels == "shuffled":
            y = trials.y.copy()
            for number in numbers:
                own = trials.recording == number
                y[own] = rng.permutation(y[own])
        made[task] = replace(trials, y=y.astype(np.int64))
    most = max(int(trials.y.max()) + 1 for trials in made.values())
    if most < 2:
        raise DataError(f"{data.name} has one recording of each task: there is no recording to decode")
    return replace(data, **made, classes=data.classes if labels == "shuffled" else tuple(map(str, range(most))))


def aligned(train, test, how):
    """Training and test trials, float32 (n, electrodes, samples), after a map that only the training trials decide.

    how: "none" scales all by one number, "electrode" standardises each electrode, "euclidean" whitens by the mean
    covariance of the trials (He and Wu 2020, doi:10.1109/TBME.2019.2913914). The labels play no part.
    """
    x = train.astype(np.float64)
    shift, matrix = 0.0, np.eye(x.shape[1])
    if how == "electrode":
        shift, matrix = x.mean((0, 2))[:, None], np.diag(1 / x.std((0, 2)))
    elif how == "euclidean":
        values, vectors = np.linalg.eigh(np.einsum("net,nft->ef", x, x) / (x.shape[0] * x.shape[2]))
        matrix = vectors / np.sqrt(np.maximum(values, 1e-6 * values.max())) @ vectors.T
    made = matrix @ (x - shift)
    scale = made.std()
    return (made / scale).astype(np.float32), (matrix @ (test - shift) / scale).astype(np.float32)


def decoded(method, n_classes, trials, train, test):
    """Logits (n, classes) of the `test` trials by a classical decoder: log-probabilities, no probability below 1e-6.

    csp-lda: six common spatial patterns, linear discriminant (Blankertz et al. 2008); covariances shrunk after Ledoit
    and Wolf. tangent-space: covariances shrunk by the oracle approximation, tangent space of their Riemannian mean,
    logistic regression (Barachant et al. 2012).
    """
    needs(method, "eeg", "pyriemann")
    from pyriemann.estimation import Covariances
    from pyriemann.spatialfilters import CSP
    from pyriemann.tangentspace import TangentSpace
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if method == "csp-lda":
        steps = Covariances("lwf"), CSP(6), LinearDiscriminantAnalysis()
    else:
        steps = Covariances("oas"), TangentSpace(), LogisticRegression(max_iter=1000)
    x, y, x_test = trials.x[train].astype(np.float64), trials.y[train], trials.x[test].astype(np.float64)
    out = np.full((len(x_test), n_classes), 1e-6)
    if len(set(y.tolist())) == 1:  # one recording alone
        out[:, y[0]] = 1.0
        return np.log(out)
    line = make_pipeline(*steps).fit(x, y)
    out[:, line.classes_] = np.maximum(line.predict_proba(x_test), 1e-6)
    return np.log(out)


def trained(specs, data, folds, tasks, device):
    """Train one network a fold, side by side, on some tasks, and test each: for each spec its outcomes (dicts) by fold.

    data, folds: of each spec. The specs differ in their seeds alone.
    """
    spec, p, size = specs[0], specs[0].params, len(folds[0])
    seeds = [1000 * own.seed + k for own in specs for k in range(size)]
    seen, unseen, y, y_test = [], [], [], []  # for each network: task -> crops of the trials, as it takes them; labels
    for trials, fold in ((own, fold) for own, parts in zip(data, folds, strict=True) for fold in parts):
        parts = {t: aligned(*(getattr(trials, t).x[rows] for rows in fold[t]), p["align"]) for t in tasks}
        for k, (xs, ys) in enumerate(((seen, y), (unseen, y_test))):
            xs.append({t: crops(torch.as_tensor(part[k], device=device), p) for t, part in parts.items()})
            ys.append({t: torch.as_tensor(getattr(trials, t).y[fold[t][k]], device=device) for t in tasks})
    fewest = {t: min(len(own[t]) for own in y) for t in tasks}
    steps = max(-(-n // p["batch"]) for n in fewest.values())
    if steps > min(fewest.values()):
        raise SpecError(f"batch is {p['batch']}: some of {steps} batches would lack a task; take a larger one")
    make = partial(built, p, data[0], tasks, seen[0][tasks[0]][0].shape[1:])
    nets = [make(seed).to(device) for seed in seeds]
    jobs = [
        Job({t: own[t][len(own[t]) // 2] for t in tasks}, wanted, multitask_loss, p["epochs"], steps * p["epochs"],
            p["sparsity"], seed)
        for own, wanted, seed in zip(seen, y, seeds, strict=True)
    ]  # fmt: skip
    outcomes = [{} for _ in nets]
    if spec.method == PROPOSED and p["sparsity"] == PUBLISHED_SPARSITY and p["labels"] == "true":
        for outcome, net, job in zip(outcomes, nets, jobs, strict=True):
            outcome["votes"] = vote_analysis(net, job, make(job.seed + 500).to(device))
    curves = [{"epochs": [], "train": [], "test": []} for _ in specs]

    def after_epoch(epoch):
        if spec.method in CURVES and epoch + 1 in {round(p["epochs"] * (k + 1) / POINTS) for k in range(POINTS)}:
            for k, curve in enumerate(curves):
                own = slice(k * size, (k + 1) * size)
                losses = (mean_loss(nets[own], x[own], wanted[own]) for x, wanted in ((seen, y), (unseen, y_test)))
                for name, value in zip(curve, (epoch + 1, *losses), strict=True):
                    curve[name].append(value)

    train = partial(
        _train, data=(seen, y), fewest=fewest, steps=steps, p=p, draws=seeds[::size], after_epoch=after_epoch
    )
    PROCEDURES[spec.method if p["sparsity"] > 0 else "dense-multi"](nets, jobs, train)
    for k, (outcome, net) in enumerate(zip(outcomes, nets, strict=True)):
        curve = curves[k // size]
        kept = {name: weight != 0 for name, weight in prunable(net).items()}
        before, test = predicted(net, seen[k]), predicted(net, unseen[k])
        parts = {"whole": "", "shared": "shared."} | {t: f"{t}." for t in tasks}
        outcome |= {
            "logits": {t: own.double().cpu().numpy() for t, own in test.items()},
            "train": {t: {"train_accuracy": (own.argmax(1) == y[k][t]).float().mean().item(),
                          "train_loss": cross_entropy(own, y[k][t]).item()} for t, own in before.items()},
            "sparsity": {part: sparsity_of(kept, start) for part, start in parts.items()},
            "weights": sum(mask.numel() for mask in kept.values()),
        } | ({"curve": curve} if curve["epochs"] else {})  # fmt: skip
    return [outcomes[first : first + size] for first in range(0, len(nets), size)]


def built(p, data, tasks, shape, seed):
    """The network of a spec, with initial weights that depend on the seed alone; shape: of a trial as it takes it."""
    generator, trunk, options = torch.Generator().manual_seed(seed), p["trunk"], p["options"]
    if trunk in POWER:
        trunk, options = PowerNet(len(data.channels), **options, mixed=trunk == "mixed"), {}
        init_weights(trunk, generator)
    return DualTaskNet(
        *shape, len(data.classes), sfreq=data.sfreq, backbone=trunk, tasks=tasks, generator=generator, **options
    )


def crops(x, p):
    """Crops of trials (n, electrodes, samples) as the network takes them, `HOP` seconds apart (list of tensors)."""
    size = round(p["crop"] * p["sfreq"]) or x.shape[2]
    starts = range(0, x.shape[2] - size + 1, max(1, round(HOP * p["sfreq"])))
    parts = [x[..., start : start + size] for start in starts]
    if p["trunk"] not in POWER:
        return parts
    return [lag_moments(part, p["options"]["taps"], mixed=p["trunk"] == "mixed") for part in parts]


def _train(nets, epochs, after_step=None, *, data, fewest, steps, p, draws, after_epoch):
    """AdamW with a cosine schedule; every batch has trials of all tasks, and each step takes one crop of them all.

    A fold with a trial more than another leaves one out in each epoch, drawn by chance, as all folds train together.
    draws: seeds of what is drawn, each for as many networks.
    """
    rngs, each = [np.random.default_rng(seed) for seed in draws], torch.arange(len(nets))
    folds = len(nets) // len(rngs)
    sizes = [{t: len(own[t]) for t in fewest} for own in data[1]]
    x = {t: [pad_sequence(crop, True) for crop in zip(*(own[t] for own in data[0]), strict=True)] for t in fewest}
    x = {t: torch.stack(own) for t, own in x.items()}  # (crops, networks, trials, ...)
    y = {t: pad_sequence([own[t] for own in data[1]], True) for t in fewest}  # zeros that are never dealt

    def batches(epoch):
        dealt = {t: [] for t in fewest}
        for k, own in enumerate(sizes):
            for t, n in fewest.items():
                dealt[t].append(rngs[k // folds].permutation(own[t])[:n])
        rows = {t: np.array_split(np.stack(own), steps, axis=1) for t, own in dealt.items()}
        for i in range(steps):
            crop = torch.tensor([rng.integers(len(next(iter(x.values())))) for rng in rngs]).repeat_interleave(folds)
            chosen = {t: (each[:, None], torch.as_tensor(rows[t][i])) for t in fewest}
            yield (
                {t: x[t][crop[:, None], *where] for t, where in chosen.items()},
                {t: y[t][where] for t, where in chosen.items()},
            )

    def optimizer(parameters):
        made = torch.optim.AdamW(parameters, lr=p["lr"], weight_decay=p["weight_decay"], fused=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(made, steps * epochs)
        made.register_step_post_hook(lambda *_: schedule.step())
        return made

    def after(number, step):
        after_step(number, [tuple({t: own[k] for t, own in part.items()} for part in step) for k in range(len(nets))])

    return fit_stack(
        nets, batches, multitask_loss, optimizer, epochs, seed=draws[0], after_step=after_step and after,
        after_epoch=after_epoch, stacked=True,
    )  # fmt: skip


def mean_loss(nets, x, y):
    """Mean cross-entropy over tasks and networks; x, y: `crops` and labels by task, one of each a network."""
    outs = [(predicted(net, own), wanted) for net, own, wanted in zip(nets, x, y, strict=True)]
    return float(np.mean([[cross_entropy(own[t], wanted[t]).item() for t in own] for own, wanted in outs]))


@torch.no_grad()
def predicted(net, x):
    """Logits of trials by task, the mean over their crops. x: task -> `crops`."""
    was = net.training
    net.eval()
    found = [net(dict(zip(x, crop, strict=True))) for crop in zip(*x.values(), strict=True)]
    net.train(was)
    return {t: torch.stack([logits[t] for logits in found]).mean(0) for t in x}


def multitask_loss(outputs, targets):
    """Multitask loss: the tasks' mean cross entropies, summed with equal weights (the paper's weights are unknown)."""
    return sum(cross_entropy(outputs[task], targets[task]) for task in targets)


def vote_analysis(net, job, other):
    """How far the two tasks' votes on the shared part agree, by layer and over the electrodes.

    For each shared layer: the votes' densities, the IoU of the two kept sets, what independent votes of these
    densities would give (`chance`), and comparisons on masks of the same sparsity: the tasks on half of their trials
    (`half`), one task on its two halves (`null_mi`, `null_me`: the noise of the scores), and one task with the initial
    weights of `other` (`reinit`). The two heads start from different random weights, which alone makes votes differ, so
    two of these are made again with ME's head starting as MI's does (`half_one_head`, `null_me_one_head`). Over the
    electrodes: weights of the spatial convolution that are kept by MI only, ME only and both, and each task's scores,
    summed over filters and scaled to sum to one.
    """
    vote, reinit = votes(net, job), votes(other, job)
    one = copy.deepcopy(net)
    one.me.load_state_dict(one.mi.state_dict())
    halves, one_head = ([votes(own, _half(job, k)) for k in (0, 1)] for own in (net, one))
    layers = {}
    for name in (n for n in prunable(net) if n.startswith("shared.")):
        mi, me = (vote[t][name] for t in TASKS)
        d_mi, d_me = (m.float().mean().item() for m in (mi, me))
        layers[name] = {
            "mi": d_mi, "me": d_me, "or": (mi | me).float().mean().item(), "iou": iou(mi, me),
            "chance": d_mi * d_me / (d_mi + d_me - d_mi * d_me) if d_mi + d_me else 1.0,
            "half": np.mean([iou(a["mi"][name], b["me"][name]) for a in halves for b in halves]),
            "half_one_head": np.mean([iou(a["mi"][name], b["me"][name]) for a in halves for b in one_head]),
            "null_mi": iou(halves[0]["mi"][name], halves[1]["mi"][name]),
            "null_me": iou(halves[0]["me"][name], halves[1]["me"][name]),
            "null_me_one_head": iou(one_head[0]["me"][name], one_head[1]["me"][name]),
            "reinit": iou(mi, reinit["mi"][name]),
        }  # fmt: skip
    name = "shared.spatial.weight"  # (filters, ., electrodes, 1)
    mi, me = (vote[t][name] for t in TASKS)
    maps = {"mi_only": mi & ~me, "me_only": me & ~mi, "both": mi & me}
    maps |= {f"{t}_score": task_scores(net, job, t)[name] for t in TASKS}
    maps = {key: own.double().transpose(0, 2).flatten(1).sum(1).cpu().numpy() for key, own in maps.items()}
    return {"layers": layers, "electrodes": {k: v / v.sum() if k.endswith("score") else v for k, v in maps.items()}}


def _half(job, k):
    """The job with every second trial of each class."""
    rows = {t: torch.argsort(y, stable=True)[k::2] for t, y in job.targets.items()}
    inputs, targets = ({t: x[rows[t]] for t, x in whole.items()} for whole in (job.inputs, job.targets))
    return replace(job, inputs=inputs, targets=targets)


def mean_of(values):
    """Mean over a list of equal structures (dicts of dicts of numbers or arrays); each key, over those that have it."""
    if isinstance(values[0], dict):
        keys = dict.fromkeys(k for v in values for k in v)
        return {k: mean_of([v[k] for v in values if k in v]) for k in keys}
    return np.mean([np.asarray(v, dtype=np.float64) for v in values], axis=0)


def short(value, digits=4):
    """The value with its floats rounded to so many decimals: there are thousands of records."""
    text = json.dumps(value, default=lambda array: array.tolist())
    return json.loads(text, parse_float=lambda number: round(float(number), digits))


def assembled(outcomes, data, folds, repeats):
    """The result of a run from the outcomes of its folds; each of the repeats predicts every trial again."""
    n, result = len(data.classes), {"metrics": {}, "labels": {}, "predicted": {}, "losses": {}}
    for task in data.tasks:
        y = np.tile(getattr(data, task).y, repeats)
        logits = np.full((len(y), n), np.nan)
        for k, (outcome, fold) in enumerate(zip(outcomes, folds, strict=True)):
            first = k // (len(folds) // repeats) * (len(y) // repeats)
            logits[first + fold[task][1]] = outcome["logits"][task]
        guess, losses = logits.argmax(1), logsumexp(logits, axis=1) - logits[np.arange(len(y)), y]
        confusion = confusion_matrix(y, guess, n)
        for name, value in (("accuracy", accuracy(confusion)), ("f1", macro_f1(confusion)), ("loss", losses.mean())):
            result["metrics"][f"{task}_{name}"] = value
        steps = np.minimum(np.rint(losses / LOSS_STEP), 255).astype(np.uint8)
        result["labels"][task] = "".join(map(str, getattr(data, task).y.tolist()))
        result["predicted"][task] = "".join(map(str, guess.tolist()))
        result["losses"][task] = base64.b64encode(steps.tobytes()).decode()
    result["data"] = {"fingerprint": data.fingerprint, "recordings": data.recordings}
    means = mean_of([{k: o[k] for k in ("train", "sparsity", "votes") if k in o} for o in outcomes])
    for task, own in means.get("train", {}).items():
        result["metrics"] |= {f"{task}_{name}": value for name, value in own.items()}
    same = {k: outcomes[0][k] for k in ("weights", "curve") if k in outcomes[0]}  # of all folds
    result = short(result | {k: v for k, v in means.items() if k == "sparsity"} | same)
    if "votes" in means:
        found = short(means["votes"])
        layers = [[name.removeprefix("shared.").removesuffix(".weight"), own] for name, own in found["layers"].items()]
        result["votes"] = found | {"layers": layers, "channels": data.channels}
        if data.truth is not None:
            result["data"]["truth"] = short({k: v for k, v in data.truth.items() if k in ("common", *TASKS)})
    return result
