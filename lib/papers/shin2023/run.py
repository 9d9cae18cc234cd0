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
from companion.data.eeg import stratified_folds
from companion.spec import canonical_json, check_values
from papers.shin2023.power import PowerNet, lag_moments, mapped
from papers.shin2023.study import CLASSICAL, LOSS_STEP, METHODS, PROPOSED, PUBLISHED_SPARSITY, RULES, TASKS
from scipy.special import logsumexp
from sparsemtl.errors import DataError, SpecError, needs
from sparsemtl.models.eeg import DualTaskNet, init_weights
from sparsemtl.sparsity.masks import iou, sparsity_of
from sparsemtl.sparsity.saliency import prunable
from sparsemtl.training.fit import fit_stack
from sparsemtl.training.metrics import accuracy, confusion_matrix, macro_f1
from sparsemtl.training.pruning import PROCEDURES, Job, task_scores, votes
from torch.func import functional_call, stack_module_state
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
    if spec.method not in METHODS:
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
        outcomes = [[joined(nets) for nets in zip(*own, strict=True)] for own in zip(*found, strict=True)]
    return [assembled(*each, repeats) for each in zip(outcomes, data, folds, strict=True)]


def folds_of(data, spec, repeats):
    """The folds of a spec, drawn by its seed; as many trials are in each fold of one number whatever the seed."""
    n, first = spec.params["folds"], repeats * spec.seed
    return [fold for k in range(repeats) for fold in stratified_folds(data, n, first + k)]


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


def moments(x):
    """Mean (n, electrodes) and second moments (n, electrodes, electrodes) of each trial (n, electrodes, samples)."""
    return x.mean(2), x @ x.swapaxes(1, 2) / x.shape[2]


def alignment(means, second, how):
    """Matrix and shift: aligned signals are matrix @ (x - shift). means, second: `moments` of the training trials.

    how: "none" scales all by one number, "electrode" standardises each electrode, "euclidean" whitens by the mean
    covariance of the trials (He and Wu 2020, doi:10.1109/TBME.2019.2913914). The labels play no part.
    """
    mean, second = means.mean(0), second.mean(0)
    shift, matrix = np.zeros_like(mean), np.eye(len(mean))
    if how == "electrode":
        shift, matrix = mean, np.diag((np.diag(second) - mean**2) ** -0.5)
    elif how == "euclidean":
        values, vectors = np.linalg.eigh(second)
        matrix = vectors / np.sqrt(np.maximum(values, 1e-6 * values.max())) @ vectors.T
    second = second - np.outer(shift, mean) - np.outer(mean - shift, shift)  # of x - shift
    variance = np.trace(matrix @ second @ matrix.T) / len(mean) - np.mean(matrix @ (mean - shift)) ** 2
    return matrix / np.sqrt(variance), shift[:, None]


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
    """Outcomes of networks for some tasks, trained side by side, by spec and fold; the specs differ in their seeds."""
    spec, p, size = specs[0], specs[0].params, len(folds[0])
    seeds = [1000 * own.seed + k for own in specs for k in range(size)]
    align = {t: aligner(getattr(data[0], t).x, p, device) for t in tasks}
    seen, unseen, y, y_test = [], [], [], []  # for each network: task -> crops of trials, as it takes them; labels
    for trials, fold in ((own, fold) for own, parts in zip(data, folds, strict=True) for fold in parts):
        parts = {t: align[t](*fold[t]) for t in tasks}
        for k, (xs, ys) in enumerate(((seen, y), (unseen, y_test))):
            xs.append({t: part[k] for t, part in parts.items()})
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
    parts = [(padded(own, tasks), wanted) for own, wanted in ((seen, y), (unseen, y_test))]

    def after_epoch(epoch):
        if spec.method in CURVES and epoch + 1 in {round(p["epochs"] * (k + 1) / POINTS) for k in range(POINTS)}:
            found = [mean_losses(nets, x, wanted).reshape(len(specs), -1).mean(1) for x, wanted in parts]
            for k, outcome in enumerate(outcomes[::size]):  # a curve for each spec
                curve = outcome.setdefault("curve", {"epochs": [], "train": [], "test": []})
                for name, value in zip(curve, (epoch + 1, *(part[k] for part in found)), strict=True):
                    curve[name].append(value)

    train = partial(
        _train, data=parts[0], fewest=fewest, steps=steps, p=p, draws=seeds[::size], after_epoch=after_epoch
    )
    PROCEDURES[spec.method if p["sparsity"] > 0 else "dense-multi"](nets, jobs, train)
    before, test = (predicted(nets, *part) for part in parts)
    for k, (outcome, net) in enumerate(zip(outcomes, nets, strict=True)):
        outcome |= tested(net, *({t: out[t][k] for t in tasks} for out in (before, test)), y[k])
    return [outcomes[first : first + size] for first in range(0, len(nets), size)]


def tested(net, before, test, y):
    """The outcome of a network; before, test: task -> logits of the training and test trials; y: of the former."""
    kept = {name: weight != 0 for name, weight in prunable(net).items()}
    names, train = {"whole": "", "shared": "shared."} | {t: f"{t}." for t in test}, {}
    for task, out in before.items():
        right = (out.argmax(1) == y[task]).float().mean().item()
        train[task] = {"train_accuracy": right, "train_loss": cross_entropy(out, y[task]).item()}
    return {
        "logits": {t: out.double().cpu().numpy() for t, out in test.items()},
        "train": train,
        "sparsity": {part: sparsity_of(kept, start) for part, start in names.items()},
        "weights": sum(mask.numel() for mask in kept.values()),
    }


def built(p, data, tasks, shape, seed):
    """The network of a spec, with initial weights that depend on the seed alone; shape: of a trial as it takes it."""
    generator, trunk, options = torch.Generator().manual_seed(seed), p["trunk"], p["options"]
    if trunk in POWER:
        trunk, options = PowerNet(len(data.channels), **options, mixed=trunk == "mixed"), {}
        init_weights(trunk, generator)
    return DualTaskNet(
        *shape, len(data.classes), sfreq=data.sfreq, backbone=trunk, tasks=tasks, generator=generator, **options
    )


def aligner(x, p, device):
    """Function (training trials, test trials) -> the crops of both, as the network takes them; only the first align.

    x: all trials (n, electrodes, samples) of a task. What takes moments is given those of aligned signals without
    making the signals: the moments of the trials are shared by all folds.
    """
    x = x.astype(np.float64)
    size, hop = round(p["crop"] * p["sfreq"]) or x.shape[2], max(1, round(HOP * p["sfreq"]))
    own, (means, second) = torch.as_tensor(x, device=device).unfold(2, size, hop).unbind(2), moments(x)
    if p["trunk"] in POWER:
        taken = {"taps": p["options"]["taps"], "mixed": p["trunk"] == "mixed"}
        own = [lag_moments(part, **taken) for part in own]

    def align(*rows):
        matrix, shift = alignment(means[rows[0]], second[rows[0]], p["align"])
        matrix, shift = (torch.as_tensor(part, device=device) for part in (matrix, shift))
        if p["trunk"] in POWER:  # a shift of the signals is lost in the batch norm
            made = [mapped(part, matrix, **taken).float() for part in own]
        else:
            made = [(matrix @ (part - shift)).float() for part in own]
        return [[part[each] for part in made] for each in rows]

    return align


def _train(nets, epochs, after_step=None, *, data, fewest, steps, p, draws, after_epoch):
    """AdamW with a cosine schedule; every batch has trials of all tasks, and each step takes one crop of them all.

    A fold with a trial more than another leaves one out in each epoch, drawn by chance, as all folds train together.
    draws: seeds of what is drawn, each for as many networks.
    """
    rngs, each, (x, labels) = [np.random.default_rng(seed) for seed in draws], torch.arange(len(nets))[:, None], data
    y = {t: pad_sequence([own[t] for own in labels], True) for t in fewest}
    absent = {t: np.arange(own.shape[1]) >= np.array([[len(one[t])] for one in labels]) for t, own in y.items()}
    trials = {t: own.flatten(0, 2) for t, own in x.items()}  # of all crops and networks, in one row

    def batches(epoch):
        rows = {}
        for t, no in absent.items():
            chance = np.concatenate([rng.random((len(no) // len(rngs), no.shape[1])) for rng in rngs])
            dealt = torch.as_tensor((chance + no).argsort(1)[:, : fewest[t]], device=y[t].device)
            rows[t] = dealt.tensor_split(steps, 1)
        for i in range(steps):
            crop = torch.tensor([rng.integers(len(next(iter(x.values())))) for rng in rngs])
            first = crop.repeat_interleave(len(nets) // len(rngs))[:, None] * len(nets) + each
            chosen = {t: own[i] for t, own in rows.items()}
            place = {t: first.to(own.device) * y[t].shape[1] + own for t, own in chosen.items()}
            yield (
                {t: trials[t].index_select(0, own.flatten()).unflatten(0, own.shape) for t, own in place.items()},
                {t: y[t].gather(1, own) for t, own in chosen.items()},
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


def padded(own, tasks):
    """Crops of the trials of all networks: task -> (crops, networks, trials, ...), zeros where one has fewer trials."""
    networks = {t: zip(*(part[t] for part in own), strict=True) for t in tasks}
    return {t: torch.stack([pad_sequence(crop, True) for crop in parts]) for t, parts in networks.items()}


@torch.no_grad()
def predicted(nets, x, y):
    """Logits of each network's trials, mean over crops: task -> list of (trials, classes). x: `padded`; y: labels."""
    state, net, was = stack_module_state(nets), nets[0], nets[0].training
    net.eval()
    take = torch.vmap(lambda state, crop: functional_call(net, state, (crop,)))
    found = [take(state, dict(zip(x, crop, strict=True))) for crop in zip(*x.values(), strict=True)]
    net.train(was)
    mean = {t: torch.stack([logits[t] for logits in found]).mean(0) for t in x}
    return {t: [out[: len(own[t])] for out, own in zip(mean[t], y, strict=True)] for t in x}


def mean_losses(nets, x, y):
    """Cross-entropy of each network, the mean over tasks (array); x, y: as for `predicted`."""
    found = predicted(nets, x, y)
    losses = [[cross_entropy(out, own[t]) for out, own in zip(found[t], y, strict=True)] for t in found]
    return torch.tensor(losses).double().mean(0).numpy()


def multitask_loss(outputs, targets):
    """Multitask loss: the tasks' mean cross entropies, summed with equal weights (the paper's weights are unknown)."""
    found = (outputs[t].log_softmax(1).gather(1, y[:, None]) for t, y in targets.items())
    return sum(-own.sum() / len(own) for own in found)  # vmap takes `cross_entropy` apart in Python


def vote_analysis(net, job, other):
    """How far the two tasks' votes on the shared part agree, by layer and over the electrodes.

    For each shared layer: the votes' densities, the IoU of the two kept sets, what independent votes of these
    densities would give (`chance`), and comparisons on masks of the same sparsity: the tasks on half of their trials
    (`half`), one task on its two halves (`null_mi`, `null_me`: the noise of the scores), and one task with the initial
    weights of `other` (`reinit`). Heads that start from different random weights make votes differ too, so two of these
    are made again with ME's head starting as MI's does (`_one_head`). Over the electrodes: weights of the spatial
    convolution that MI only, ME only and both keep, and each task's scores, summed over filters and scaled to sum to 1.
    """
    vote, reinit, one = votes(net, job), votes(other, job), copy.deepcopy(net)
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
            "null_mi": iou(*(half["mi"][name] for half in halves)),
            "null_me": iou(*(half["me"][name] for half in halves)),
            "null_me_one_head": iou(*(half["me"][name] for half in one_head)),
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


def joined(nets):
    """The outcome of a fold from those of its networks: one for both tasks, or one for each."""
    return nets[0] | mean_of([{k: net[k] for k in ("logits", "train", "sparsity")} for net in nets])


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
    same = {k: outcomes[0][k] for k in ("weights", "curve") if k in outcomes[0]}  # of one fold, or of all
    result |= {k: v for k, v in means.items() if k == "sparsity"} | same
    if found := means.get("votes"):
        layers = [[name.removeprefix("shared.").removesuffix(".weight"), own] for name, own in found["layers"].items()]
        result["votes"] = found | {"layers": layers, "channels": data.channels}
        if data.truth is not None:
            result["data"]["truth"] = {k: v for k, v in data.truth.items() if k in ("common", *TASKS)}
    return short(result)
