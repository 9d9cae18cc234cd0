"""One run of the EEG study: a subject's folds, a method, a sparsity; what each network got right on unseen trials.

Nothing of a test fold touches scaling, masks or training, and nothing is chosen by its score: every network is
trained for a fixed number of epochs and tested once, at the end.
"""

import contextlib
import copy
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from companion.data import load
from companion.data.eeg import stratified_folds
from companion.spec import canonical_json, check_values
from papers.shin2023.study import METHODS, RULES, TASKS
from sparsemtl.errors import SparseMTLError, SpecError, needs
from sparsemtl.models.eeg import DualTaskNet
from sparsemtl.sparsity.masks import iou, sparsity_of
from sparsemtl.sparsity.saliency import prunable
from sparsemtl.training.fit import fit_stack
from sparsemtl.training.metrics import accuracy, cohen_kappa, confusion_matrix, macro_f1
from sparsemtl.training.pruning import PROCEDURES, Job, task_scores, votes
from torch.nn.functional import cross_entropy

SINGLE = ("dense-single", "snip-single")  # one network for each task
CLASSICAL = "csp-lda"
METRICS = {"accuracy": accuracy, "f1": macro_f1, "kappa": cohen_kappa}
EPOCH_OPTIONS = ("subject", "problem", "fmin", "fmax", "tmin", "tmax", "sfreq", "channels")


def run(spec, root=None, device="cpu"):
    """Result dict of one spec: metrics, confusion matrices, sparsity, history, and for "or" the tasks' votes."""
    result = run_many([spec], root, device)[0]
    if isinstance(result, SparseMTLError):
        raise result
    return result


def batches(specs, device="cpu"):
    """Lists of specs for `run_many`: those that share all but method and sparsity, no more than train together."""
    cases = {}
    for spec in specs:
        shared = spec.to_dict() | {"method": "single" if spec.method in SINGLE else spec.method == CLASSICAL}
        shared["params"].pop("sparsity", None)
        cases.setdefault(canonical_json(shared), []).append(spec)
    lists = []
    for case in cases.values():
        lists += [[spec] for spec in case]
    return lists


def run_many(specs, root=None, device="cpu"):
    """Results of specs that are one of `batches`, in their order; for one that failed its `SparseMTLError` instead.

    Where all together do not fit into the GPU's memory they run by halves.
    """
    with contextlib.suppress(torch.cuda.OutOfMemoryError):
        return _run_many(specs, root, device)
    if len(specs) > 1:  # outside the handler, whose traceback would keep the memory
        half = len(specs) // 2
        return run_many(specs[:half], root, device) + run_many(specs[half:], root, device)
    batch = specs[0].params["batch"]
    return [
        SparseMTLError(f"out of GPU memory with batch={batch}: take a smaller one, such as --set batch={batch // 2}")
    ]


def _run_many(specs, root, device):
    failures = {i: error for i, spec in enumerate(specs) if (error := _wrong(spec))}
    outcomes = {i: [] for i in range(len(specs)) if i not in failures}
    if not outcomes:
        return list(failures.values())
    try:
        data = _data(specs[0], root)
        for k, fold in enumerate(stratified_folds(data, specs[0].params["folds"], specs[0].seed)):
            arrays = {task: _scaled_split(data, task, fold) for task in TASKS}
            well = [i for i in outcomes if i not in failures]
            found = _run_fold([specs[i] for i in well], data, arrays, 1000 * specs[0].seed + k, device)
            for i, outcome in zip(well, found, strict=True):
                if isinstance(outcome, SparseMTLError):
                    failures[i] = outcome
                outcomes[i].append(outcome)
    except SparseMTLError as error:  # in what they share
        failures = {i: error for i in outcomes} | failures
    return [failures.get(i) or _assemble(outcomes[i], data, spec.params) for i, spec in enumerate(specs)]


def _wrong(spec):
    """The `SpecError` of a spec that cannot run, or None."""
    if spec.method != CLASSICAL and spec.method not in PROCEDURES:
        return SpecError(f"unknown method {spec.method!r}: choose one of {CLASSICAL}, {', '.join(PROCEDURES)}")
    try:
        check_values(spec.params, RULES)
    except SpecError as error:
        return error
    if spec.params["sparsity"] and not METHODS[spec.method].sparse:
        return SpecError(f"sparsity is {spec.params['sparsity']}: {spec.method} has no masks, it runs at 0 alone")
    return None


def _data(spec, root):
    own = "trials_per_class" if spec.data.startswith("simulated") else "allow_missing_runs"
    options = {k: spec.params[k] for k in (*EPOCH_OPTIONS, own) if k in spec.params}
    data = load(spec.data, root, **options)
    return _shuffled(data, spec.seed) if spec.params["labels"] == "shuffled" else data


def _shuffled(data, seed):
    """The same trials with labels permuted within each task: what is left is what chance gives."""
    rng = np.random.default_rng(seed)
    mi, me = (replace(t, y=rng.permutation(t.y)) for t in (data.mi, data.me))
    return replace(data, mi=mi, me=me)


def _scaled_split(data, task, fold):
    """(x_train, y_train, x_test, y_test) of one task; each channel scaled by its training trials of both tasks."""
    mean, deviation = scaling(np.concatenate([getattr(data, t).x[fold[t][0]] for t in TASKS]))
    trials, (train, test) = getattr(data, task), fold[task]
    x = ((trials.x - mean) / deviation).astype(np.float32)
    return x[train], trials.y[train], x[test], trials.y[test]


def scaling(trials):
    """Mean and standard deviation of each channel, float64 (channels, 1), of trials (n, channels, samples)."""
    mean = trials.mean(axis=(0, 2), dtype=np.float64)[:, None]
    return mean, trials.std(axis=(0, 2), dtype=np.float64)[:, None]


def _run_fold(specs, data, arrays, seed, device):
    """Train on one fold; for each spec its confusion matrices by task and, for networks, sparsity, history and votes.

    A `SparseMTLError` takes the place of what failed. The specs are one of `batches`, or none of them is left.
    """
    if not specs:
        return []
    if specs[0].method == CLASSICAL:
        return [{"confusion": {t: _csp_lda(*arrays[t], len(data.classes)) for t in TASKS}} for _ in specs]
    tensors = {t: tuple(torch.as_tensor(a, device=device) for a in arrays[t]) for t in TASKS}
    groups = [(task,) for task in TASKS] if specs[0].method in SINGLE else [TASKS]
    found = [_train_networks(specs, data, {t: tensors[t] for t in group}, seed, device) for group in groups]
    return [_joined(parts) for parts in zip(*found, strict=True)]


def _joined(parts):
    """One outcome of those of a spec's networks, one of them for each task or one for both; or an error of theirs."""
    for part in parts:
        if isinstance(part, SparseMTLError):
            return part
    out = {
        "confusion": {t: c for part in parts for t, c in part["confusion"].items()},
        "train_accuracy": {t: a for part in parts for t, a in part["train_accuracy"].items()},
        "history": np.sum([part["history"] for part in parts], axis=0),
        "sparsity": _mean([part["sparsity"] for part in parts]),
        "weights": parts[0]["weights"],  # of one network; the single-task methods train two of them
        "layers": _mean([part["layers"] for part in parts]),
    }
    return out | {"votes": parts[0]["votes"]} if "votes" in parts[0] else out


def _train_networks(specs, data, tensors, seed, device):
    """Train a network for each spec, all side by side; for each its outcome or its `SparseMTLError`."""
    p = specs[0].params
    build = partial(
        DualTaskNet,
        len(data.channels),
        data.mi.x.shape[2],
        len(data.classes),
        sfreq=data.sfreq,
        backbone=p["backbone"],
        tasks=tuple(tensors),
        **p.get("trunk", {}),
    )
    inputs, targets = ({t: tensors[t][i] for t in tensors} for i in (0, 1))
    steps = _steps(targets, p["batch"])
    if steps > (fewest := min(map(len, targets.values()))):
        least = -(-max(map(len, targets.values())) // fewest)
        raise SpecError(f"batch is {p['batch']}: some of {steps} batches would lack a task; take {least} or more")
    train = partial(_train, p=p, data=(inputs, targets), seed=seed)
    found = []
    for spec in specs:
        job = Job(inputs, targets, multitask_loss, p["epochs"], steps * p["epochs"], spec.params["sparsity"], seed)
        try:
            found.append(_train_network(spec.method, job, build, data, tensors, device, train))
        except SparseMTLError as error:
            found.append(error)
    return found


def _train_network(method, job, build, data, tensors, device, train):
    """Procedure of one network, from its initial weights to what it gets right."""
    net = build(generator=torch.Generator().manual_seed(job.seed)).to(device)
    extra = {"votes": vote_analysis(net, job, data, build, job.seed)} if method == "or" and job.sparsity > 0 else {}
    (history,) = PROCEDURES[method if job.sparsity > 0 else "dense-multi"]([net], [job], train)
    test = predict(net, {t: tensors[t][2] for t in tensors})
    seen = predict(net, job.inputs)
    n_classes = len(data.classes)
    return extra | {
        "confusion": {t: confusion_matrix(tensors[t][3].cpu().numpy(), test[t], n_classes) for t in tensors},
        "train_accuracy": {t: float((seen[t] == job.targets[t].cpu().numpy()).mean()) for t in tensors},
        "history": np.array(history),
        "sparsity": _realised(net),
        "weights": _sizes(net),
        "layers": {name: float((w == 0).float().mean()) for name, w in prunable(net).items()},
    }


def multitask_loss(outputs, targets):
    """Multitask loss: the tasks' mean cross entropies, summed with equal weights (the paper's weights are unknown)."""
    return sum(cross_entropy(outputs[task], targets[task]) for task in targets)


def _steps(targets, batch):
    """Batches of an epoch."""
    return max(-(-len(y) // batch) for y in targets.values())


def dealt(inputs, targets, batch, seed, epoch):
    """Yield the (inputs, targets) of an epoch: every batch holds all tasks, at most `batch` trials of each.

    Each task's trials are shuffled, by `seed` and `epoch` alone, and dealt over the same number of steps.
    """
    rng, steps = np.random.default_rng([seed, epoch]), _steps(targets, batch)
    shuffled = {t: np.array_split(rng.permutation(len(y)), steps) for t, y in targets.items()}
    for i in range(steps):
        rows = {t: torch.as_tensor(d[i], device=targets[t].device) for t, d in shuffled.items()}
        yield {t: inputs[t][r] for t, r in rows.items()}, {t: targets[t][r] for t, r in rows.items()}


def _train(nets, epochs, after_step=None, *, p, data, seed):
    """Adam on batches that hold both tasks."""

    def batches(epoch):
        return ([batch] for batch in dealt(*data, p["batch"], seed, epoch))

    adam = partial(torch.optim.Adam, lr=p["lr"])
    return fit_stack(nets, batches, multitask_loss, adam, epochs, seed=seed, after_step=after_step)


@torch.no_grad()
def predict(net, inputs):
    """Class index of every trial, by task (int64 arrays); the network is left in eval mode."""
    net.eval()
    return {task: logits.argmax(1).cpu().numpy() for task, logits in net(inputs).items()}


def _csp_lda(x_train, y_train, x_test, y_test, n_classes):
    """Confusion matrix of common spatial patterns with linear discriminant analysis (Blankertz et al. 2008)."""
    needs("csp-lda", "eeg", "mne")
    from mne.decoding import CSP
    from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    from sklearn.pipeline import make_pipeline

    # shrinkage: with as many channels as trials the covariance is near singular
    csp = CSP(n_components=6, reg="ledoit_wolf", log=True, cov_est="epoch")
    from mne.utils import use_log_level

    with use_log_level("error"):
        line = make_pipeline(csp, LinearDiscriminantAnalysis()).fit(x_train.astype(np.float64), y_train)
        return confusion_matrix(y_test, line.predict(x_test.astype(np.float64)), n_classes)


def _realised(net):
    """Share of zero weights: whole network, shared part, and each head."""
    masks = {name: weight != 0 for name, weight in prunable(net).items()}
    return {"whole": sparsity_of(masks)} | {part: sparsity_of(masks, f"{part}.") for part in ("shared", *net.tasks)}


def _sizes(net):
    """Number of prunable weights: whole network, shared part, and each head."""
    sizes = {name: weight.numel() for name, weight in prunable(net).items()}
    parts = {part: sum(n for k, n in sizes.items() if k.startswith(f"{part}.")) for part in ("shared", *net.tasks)}
    return {"whole": sum(sizes.values())} | parts


def vote_analysis(net, job, data, build, seed):
    """How far the two tasks' votes on the shared part agree, by layer and over the electrodes.

    For each shared layer: the votes' densities, the IoU of the two kept sets, what independent votes of these
    densities would give (`chance`), and comparisons on masks of the same sparsity: the tasks on half of their trials
    (`half`), one task on its two halves (`null_mi`, `null_me`: the noise of the scores), and one task with two
    initialisations (`reinit`). The two heads start from different random weights, which alone makes votes differ, so
    two of these are made again with ME's head starting as MI's does (`half_one_head`, `null_me_one_head`). Over the
    electrodes: weights of the spatial convolution that are kept by MI only, ME only and both, and each task's scores,
    summed over filters and scaled to sum to one.
    """
    vote = votes(net, job)
    other = build(generator=torch.Generator().manual_seed(seed + 500)).to(next(net.parameters()).device)
    reinit = votes(other, job)
    halves = [votes(net, _half(job, k)) for k in (0, 1)]
    one_head = [votes(_with_one_head(net), _half(job, k)) for k in (0, 1)]
    layers = {}
    for name in (n for n in prunable(net) if n.startswith("shared.")):
        mi, me = (vote[t][name] for t in TASKS)
        d_mi, d_me = (m.float().mean().item() for m in (mi, me))
        layers[name] = {
            "mi": d_mi,
            "me": d_me,
            "or": (mi | me).float().mean().item(),
            "iou": iou(mi, me),
            "chance": d_mi * d_me / (d_mi + d_me - d_mi * d_me) if d_mi + d_me else 1.0,
            "half": _mean_iou(halves, halves, name),
            "half_one_head": _mean_iou(halves, one_head, name),
            "null_mi": iou(halves[0]["mi"][name], halves[1]["mi"][name]),
            "null_me": iou(halves[0]["me"][name], halves[1]["me"][name]),
            "null_me_one_head": iou(one_head[0]["me"][name], one_head[1]["me"][name]),
            "reinit": iou(mi, reinit["mi"][name]),
        }
    return {"layers": layers, "electrodes": _electrodes(net, job, vote)}


def _with_one_head(net):
    """A copy of the network whose head for ME has the weights of that for MI."""
    net = copy.deepcopy(net)
    net.me.load_state_dict(net.mi.state_dict())
    return net


def _mean_iou(halves, others, name):
    """Agreement of MI on each half of its trials with ME on each of its own."""
    return np.mean([iou(one["mi"][name], other["me"][name]) for one in halves for other in others])


def _half(job, k):
    """The job with every second trial of each class."""
    rows = {t: torch.argsort(y, stable=True)[k::2] for t, y in job.targets.items()}
    inputs, targets = ({t: x[rows[t]] for t, x in whole.items()} for whole in (job.inputs, job.targets))
    return replace(job, inputs=inputs, targets=targets)


def _electrodes(net, job, vote):
    name, axis = net.spatial_weight()

    def by_electrode(tensor):
        return tensor.double().transpose(0, axis).flatten(1).sum(1).cpu()

    mi, me = (vote[t][name] for t in TASKS)
    scores = {t: by_electrode(task_scores(net, job, t)[name]) for t in TASKS}
    return {
        "mi_only": by_electrode(mi & ~me),
        "me_only": by_electrode(me & ~mi),
        "both": by_electrode(mi & me),
        "mi_score": scores["mi"] / scores["mi"].sum(),
        "me_score": scores["me"] / scores["me"].sum(),
    }


def _mean(values):
    """Mean over a list of equal structures (dicts of dicts of numbers or arrays); keys that some lack are averaged."""
    if isinstance(values[0], dict):
        keys = dict.fromkeys(k for v in values for k in v)
        return {k: _mean([v[k] for v in values if k in v]) for k in keys}
    return np.mean([np.asarray(v, dtype=np.float64) for v in values], axis=0)


def _assemble(outcomes, data, p):
    confusion = {t: [o["confusion"][t] for o in outcomes] for t in TASKS}
    pooled = {t: np.sum(confusion[t], axis=0) for t in TASKS}
    result = {
        "metrics": {f"{t}_{name}": metric(pooled[t]) for t in TASKS for name, metric in METRICS.items()},
        "confusion": confusion,
        "data": {
            "fingerprint": data.fingerprint,
            "classes": data.classes,
            "runs": data.recordings,
            "trials": {t: np.bincount(getattr(data, t).y, minlength=len(data.classes)) for t in TASKS},
            "channels": data.channels,
            "sfreq": data.sfreq,
            "n_times": data.mi.x.shape[2],
        },
    }
    if data.truth is not None:
        result["data"]["truth"] = {k: v for k, v in data.truth.items() if k in ("common", *TASKS)}
    if "history" not in outcomes[0]:
        return result
    for task, value in _mean([o["train_accuracy"] for o in outcomes]).items():
        result["metrics"][f"{task}_train_accuracy"] = value
    result["weights"] = outcomes[0]["weights"]
    result["sparsity"] = {"nominal": p["sparsity"]} | _mean([o["sparsity"] for o in outcomes])
    for key in ("layers", "history", "votes"):
        if key in outcomes[0]:
            result[key] = _mean([o[key] for o in outcomes])
    return result
