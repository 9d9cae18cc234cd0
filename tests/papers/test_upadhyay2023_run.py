"""One run of the vision study: reproducible, resumable, its switches do what they say, its numbers are right.

The released optimiser follows an independent trajectory; the controller reaches its target, or says why not.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from companion import checkpoint, engine
from companion.records import Store
from companion.verify import verify
from made_up import made_up_record
from papers.upadhyay2023 import run as dense
from papers.upadhyay2023 import study
from papers.upadhyay2023.control import NEAR, Controller
from papers.upadhyay2023.run import Training, finished, load_images, predictions
from sparsemtl.errors import RecordError, SparseMTLError, SpecError
from sparsemtl.sparsity.prox import prox_group_lasso_scaled

# Whether a mouth smiles is a small thing, that crops cut off: without them every seed learns it, on any processor
LONGER = {"n": 400, "width": 8, "epochs": 24, "lr": 3e-3, "batch": 16, "crop": 1.0, "flip": False}
TINY = {"n": 20, "size": 24, "epochs": 4, "batch": 4, "crop": 1.0, "flip": False, "schedule": "constant"}
NARROW = {"n": 12, "width": 2, "head_width": 4}


def spec(tasks=study.ALL_NYU, lam=1e-2, data="nyuv2", protocol="paper", **params):
    return study.specs("quick", (tasks,), (lam,), data, protocol, seeds=(3,), **(TINY | params))[0]


def training(*args, **params):
    chosen = spec(*args, **params)
    return Training(chosen, load_images(chosen))


def fitted(chosen, data=None):
    run = Training(chosen, data or load_images(chosen))
    run.fit()
    finished(chosen)
    return run


@pytest.fixture(scope="module")
def record():
    return engine.run(spec(protocol="released"))


def test_a_run_repeats_to_the_bit_and_keeps_its_times_out_of_the_result(record):
    again = engine.run(spec(protocol="released"))
    assert again.digest == record.digest
    assert not {"timings", "precision"} & set(record.result)
    assert record.run["precision"] == "float32"
    assert [len(record.run["timings"][f"{form}_ms"]) for form in ("dense", "tiny")] == [dense.TURNS] * 2


def test_a_record_holds_what_the_pages_draw(record, make_record):
    """Tests of pages draw made-up records, which have no more than a real one."""
    result, made = record.result, made_up_record(record.spec, make_record).result
    assert made.keys() <= result.keys()
    assert set(result["constant"]) == set(result["blind"]) == set(result["metrics"]) >= set(made["metrics"])
    for name in ("gain", "images"):
        assert result[name].keys() == made[name].keys()
    assert {name: len(result["history"][name]) for name in made["history"]} == dict.fromkeys(made["history"], 4)
    alive, total = np.sum(list(result["channels"].values()), axis=0)
    assert result["sparsity"]["group"] == pytest.approx(1 - alive / total, abs=1e-5)
    assert alive < total
    assert result["backbone"]["compact"]["parameters"] < result["backbone"]["zeros"]["parameters"]


@pytest.mark.parametrize(
    ("tasks", "data", "protocol"), [("seg+male", "celebamask", "paper"), ("normal+depth", "nyuv2", "released")]
)
def test_a_run_cut_off_in_an_epoch_goes_on_to_the_same_result(monkeypatch, tasks, data, protocol):
    chosen = spec(tasks, data=data, protocol=protocol)
    uncut = engine.run(chosen)
    monkeypatch.setattr(dense, "CHECKPOINT_SECONDS", 0.0)
    batches = Training._steps

    def cut(self, epoch):
        yield next(batches(self, epoch))
        if epoch == 2:
            raise KeyboardInterrupt
        yield from list(batches(self, epoch))[1:]

    with monkeypatch.context() as patch:
        patch.setattr(Training, "_steps", cut)
        with pytest.raises(KeyboardInterrupt):
            engine.run(chosen)
    resumed = Training(chosen, load_images(chosen))
    resumed._resume()
    assert len(resumed.history["val"]) == 2  # it does not start anew
    assert engine.run(chosen).digest == uncut.digest
    finished(chosen)


@pytest.mark.parametrize("how", ["predictions", "run", "verify"])
def test_a_checkpoint_of_a_run_that_was_cut_off_waits_for_its_record(how, tmp_path):
    chosen = spec("depth")
    whole = engine.run(chosen)
    assert not dense.begun(chosen)
    cut = Training(chosen, load_images(chosen))
    cut.p = cut.p | {"epochs": 2}
    cut.fit()
    {"predictions": lambda: predictions(chosen), "run": lambda: engine.run(chosen),
     "verify": lambda: verify([whole], [whole], progress=False)}[how]()  # fmt: skip
    assert dense.begun(chosen)
    engine.execute([chosen], Store(tmp_path), progress=False)
    assert not dense.begun(chosen)
    assert Store(tmp_path).read(chosen).digest == whole.digest


def test_a_training_outlives_a_record_that_cannot_be_written(tmp_path, monkeypatch):
    store, chosen = Store(tmp_path / "runs"), spec("depth")

    def full(record):
        raise RecordError("cannot write: No space left on device")

    monkeypatch.setattr(store, "write", full)
    with pytest.raises(RecordError, match="No space left"):
        engine.execute([chosen], store, progress=False)
    assert checkpoint.path_of(chosen).exists()
    again = engine.execute([chosen], Store(tmp_path / "runs"), progress=False).records[chosen.hash]
    assert again.run["timings"]["resumed_seconds"] > 0
    assert not checkpoint.path_of(chosen).exists()


def test_a_validation_loss_that_is_not_finite_ends_the_run(monkeypatch):
    def broken(self, outputs, targets):
        return {"depth": outputs["depth"].mean() * (1 if self.net.training else torch.nan)}

    monkeypatch.setattr(Training, "_losses", broken)
    with pytest.raises(SparseMTLError, match="the loss is nan in epoch 0: lower the learning rate"):
        training("depth").fit()


@pytest.mark.parametrize(
    ("penalty", "of"),
    [("l1", torch.sum), ("group_lasso", lambda w: w.shape[1] ** 0.5 * w.square().sum((0, 2, 3)).sqrt().sum())],
)
def test_released_code_adds_to_the_loss_the_penalty_of_the_run(penalty, of):
    run = training("depth", protocol="released", penalty=penalty, lam=1e-3)
    images, targets = next(run._steps(0))
    outputs = run.net(images)
    added = run._loss(outputs, targets) - run._balanced(run._losses(outputs, targets))
    assert added.item() == pytest.approx(1e-3 * sum(of(w.abs()).item() for w in run.convs), rel=1e-3)


def test_bfloat16_rounds_the_forward_pass_and_nothing_else():
    exact, rounded = (training("seg+normal+depth", precision=p) for p in ("float32", "bfloat16"))
    rows = exact.data.splits["test"]
    (_, a), (_, b) = next(exact._forward(rows)), next(rounded._forward(rows))
    for task in a:
        assert b[task].dtype == torch.float32
        gap = (a[task] - b[task]).abs().max() / a[task].abs().max()
        assert 1e-5 < gap < 0.1  # 8 bits of mantissa: a half step is 0.002 in each operation
    rounded.fit()
    finished(rounded.spec)
    assert {w.dtype for w in rounded.net.parameters()} == {torch.float32}


def test_each_task_is_tested_at_its_own_best_epoch_where_tasks_stop_alone(monkeypatch):
    script = {"seg": [1.0, 2.0, 3.0, 9.0], "depth": [9.0, 3.0, 2.0, 1.0]}
    losses, after, seen = Training._losses, Training._after_epoch, []

    def scripted(self, outputs, targets):
        found, epoch = losses(self, outputs, targets), len(self.history["val"])
        return found if self.net.training else {t: torch.tensor(script[t][epoch]) for t in found}

    def noted(self, epoch):
        seen.append(self.scorer.scores(self.predict, self.data.splits["test"])[0])
        return after(self, epoch)

    monkeypatch.setattr(Training, "_losses", scripted)
    monkeypatch.setattr(Training, "_after_epoch", noted)
    found = fitted(spec("seg+depth", stopping="per-task")).result()["metrics"]
    assert len({scores["depth_mae_m"] for scores in seen}) == 4
    for name, epoch in (("seg_iou", 0), ("depth_mae_m", 3)):
        assert found[name] == pytest.approx(seen[epoch][name])


def test_nothing_of_the_test_images_gets_into_training():
    chosen = spec("seg+depth")
    data = load_images(chosen)
    rows = data.splits["test"]
    garbled = replace(data, images=data.images.clone(), targets={t: y.clone() for t, y in data.targets.items()})
    garbled.images[rows] = 255 - garbled.images[rows]
    garbled.targets["seg"][rows] = 0
    garbled.targets["depth"][rows] = 9.0
    one, other = fitted(chosen, data), fitted(chosen, garbled)
    assert one.history == other.history
    weights = other.net.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in one.net.state_dict().items())
    assert one.result()["metrics"] != other.result()["metrics"]


def test_relative_depth_is_clipped_per_image():
    run = training("depth", depth="relative")
    for row in (0, 7):
        metres = run.data.targets["depth"][row].float().numpy()
        known, relative = metres > 0, metres / metres.max()
        wanted = np.where(known, np.clip(relative, 0.1, np.quantile(relative[known], 0.99)), 0)
        np.testing.assert_allclose(run.scorer.targets["depth"][row], wanted, rtol=1e-5)
    assert isinstance(run.net.heads["depth"][-1], torch.nn.Sigmoid)


def test_losses_are_taken_where_the_protocol_says():
    whole, features, coarse = (training("seg", **p) for p in ({}, {"resolution": "features"}, {"loss_size": 12}))
    assert torch.equal(features.scorer.targets["seg"], whole.scorer.targets["seg"][:, 4::8, 4::8])
    assert [next(run._steps(0))[1]["seg"].shape[-1] for run in (whole, features, coarse)] == [24, 3, 12]


def test_splits_of_the_released_faces():
    paper, released = (load_images(spec("male", data="celebamask", n=100, protocol=p)) for p in ("paper", "released"))
    counts = [[len(rows) for rows in data.splits.values()] for data in (paper, released)]
    assert counts == [[60, 20, 20], [23, 5, 5]]
    assert paper.fingerprint != released.fingerprint
    assert len(torch.cat(list(released.splits.values())).unique()) == 33


@pytest.mark.parametrize(
    ("tasks", "data", "metric", "sign", "params"),
    [("seg", "celebamask", "seg_iou", 1, {}), ("normal", "nyuv2", "normal_cs", 1, {}),
     ("depth", "nyuv2", "depth_mae", -1, {"depth": "relative", "epochs": 20}),
     ("seg", "nyuv2", "seg_miou", 1, {"epochs": 16}), ("smile", "celebamask", "smile_acc", 1, LONGER)],
)  # fmt: skip
def test_a_dense_single_task_model_learns(tasks, data, metric, sign, params):
    result = engine.run(study.specs("quick", (tasks,), (0.0,), data, seeds=(0,), **params)[0]).result
    ours, constant = result["metrics"][metric], result["constant"][metric]
    assert sign * (ours - constant) > 0.15 * constant


def test_bad_values_are_named():
    chosen = spec("depth")
    wrong = {"lam is -1": {"lam": -1.0}, "depth is 'feet'": {"depth": "feet"}, "no task": {"tasks": "male"}}
    for said, params in wrong.items():
        with pytest.raises(SpecError, match=said):
            dense.run(replace(chosen, params=dict(chosen.params) | params))


def test_a_mirrored_part_of_an_image_keeps_its_targets_in_place():
    """Tasks whose truth can be read from the image: each pixel's colour says its place, and so do its targets."""
    plain = training("seg+normal+depth", crop=0.5, flip=True)
    data, size = plain.data, plain.data.size
    place = (torch.arange(size) + 0.5) / size
    across, down = place.expand(size, size), place[:, None].expand(size, size)
    data.images[:] = (255 * torch.stack([across, down, across])).round().to(torch.uint8)
    data.targets["depth"][:] = (1 + across)[None]
    data.targets["normal"][:] = torch.stack([across, down, -torch.ones(size, size)])
    data.targets["seg"][:] = (down * size).to(torch.uint8)
    batches = Training(plain.spec, data).batches
    mean, spread = batches.moments
    for images, targets in batches.epoch(0):
        x, y = (images * spread + mean)[:, :2].movedim(1, 0) / 255
        mirrored = 1 - 2 * (x.diff(dim=2).mean((1, 2), keepdim=True) < 0).float()
        off = {"depth": targets["depth"][:, 0] - 1 - x, "normal": targets["normal"][:, 0] * mirrored - x,
               "seg": targets["seg"] / size - y}  # fmt: skip
        inside = (x - 0.5).abs() < 0.4
        assert all(values[inside].abs().max() < 2 / size for values in off.values())


def test_the_learning_rate_rises_then_falls_to_a_thousandth():
    run = training("depth", schedule="cosine", epochs=10)
    rates = [run.optimizer.param_groups[0]["lr"] for epoch in range(10) for _ in run._steps(epoch)]
    top = rates.index(max(rates))
    assert rates == sorted(rates[:top]) + sorted(rates[top:], reverse=True)
    assert max(rates) == pytest.approx(run.p["lr"], rel=0.1)
    assert rates[-1] < 0.01 * run.p["lr"]


def test_losses_of_several_tasks_are_whole_in_the_released_scale_and_that_of_one_is_bare():
    losses = {"seg": torch.tensor(2.0), "depth": torch.tensor(3.0)}
    several = training("seg+depth", protocol="released")._balanced(losses).item()
    assert several == pytest.approx(np.exp(-1) * 5 + 2)
    assert training("seg", protocol="released")._balanced({"seg": losses["seg"]}).item() == 2
    assert training("seg+depth")._balanced(losses).item() == pytest.approx(2.5)  # Eq. 2 at sigma = 1


@pytest.mark.parametrize("changed", [False, True])
def test_switches_of_the_optimiser_do_what_they_say(changed):
    run = training("seg+depth", uncertainty="fixed" if changed else "learned", restarts=changed)
    start = run.balance.log_variance.detach().clone()
    run.fit()
    assert (start == changed).all()
    assert (run.balance.log_variance == start).all() == changed
    assert bool(run.optimizer.state) != changed  # a restart forgets Adam's moments
    run.checkpoint.unlink()


@pytest.mark.parametrize("protocol", ["paper", "released"])
def test_heads_are_those_of_the_protocol_and_start_at_the_mean_of_the_targets(protocol):
    run, released = training("seg+normal+depth", protocol=protocol), protocol == "released"
    heads, features = run.net.eval().heads, torch.zeros(2, 32 * run.p["width"], 3, 3)
    assert heads["seg"](features).shape[1] == len(run.data.classes) + released  # a 41st, item 1 of the notes
    for task in ("normal", "depth"):
        assert (heads[task](1e3 * torch.randn_like(features)).abs().max() <= 1) == released
    y, train = run.scorer.targets, run.data.splits["train"]
    known = y["depth"][train][y["depth"][train] > 0].float()
    assert heads["depth"](features).mean().item() == pytest.approx(known.mean().item(), rel=0.25)  # zeros add a little
    direction = y["normal"][train].float().sum((0, 2, 3))
    assert torch.cosine_similarity(heads["normal"](features).mean((0, 2, 3)), direction, dim=0) > 0.9


def test_images_come_in_another_order_each_epoch_that_the_seed_decides():
    def seen(epoch, seed=3):
        run.batches.seed = seed
        return torch.cat([images for images, _ in run.batches.epoch(epoch)]).flatten(1)

    run = training("depth")
    first, train = seen(0), run.batches.images(run.data.splits["train"]).flatten(1)
    assert len(first) == len(train) // 4 * 4
    assert torch.equal(first, seen(0))
    assert not any(torch.equal(first, images[: len(first)]) for images in (train, seen(1), seen(0, seed=4)))
    assert all((image == train).all(1).sum() == 1 for image in first)


@pytest.mark.parametrize("lam", [0.0, 1e-1])
def test_the_released_optimiser_follows_an_independent_trajectory(lam):
    """50 steps, a new optimiser every 10. Adam and coupled decay; AdamW and the prox, which has tests of its own."""
    run = training(lam=lam, protocol="released", **NARROW)
    run.net.double()
    del run.__dict__["convs"]
    run.optimizer = run._optimizer()
    parameters = [p for group in run.optimizer.param_groups for p in group["params"]]
    assert len(parameters) == len(list(run.net.parameters()))
    penalised, ours = {id(w) for w in run.convs}, [p.detach().clone() for p in parameters]
    lr, eps, decay, (b1, b2) = run.p["lr"], 1e-6, 0.1, (0.9, 0.999)
    for step in range(50):
        if step % 10 == 0:
            t, m, v = 0, [torch.zeros_like(x) for x in ours], [torch.zeros_like(x) for x in ours]
            run.optimizer.state.clear()
        t += 1
        for k, p in enumerate(parameters):
            p.grad = torch.randn_like(p) + 0.3 * ours[k]
            g = p.grad + decay * ours[k] if lam == 0 else p.grad
            m[k], v[k] = b1 * m[k] + (1 - b1) * g, b2 * v[k] + (1 - b2) * g**2
            x = ours[k] if lam == 0 else ours[k] * (1 - lr * decay)
            x = x - lr * (m[k] / (1 - b1**t)) / ((v[k] / (1 - b2**t)).sqrt() + eps)
            if lam and id(p) in penalised:  # the released metric: no bias correction
                x = prox_group_lasso_scaled(x, v[k].sqrt() + eps, lr * lam * x[:, 0].numel() ** 0.5)
            ours[k] = x
        run.optimizer.step()
    torch.testing.assert_close([p.detach() for p in parameters], ours, rtol=1e-6, atol=1e-9)
    assert not lam or any((p == 0).any() for p in run.convs)


def plant(controller, epochs, lam=1e-5, ease=1.0):
    """A training whose sparsity follows log10(lambda) with a lag of epochs; ease moves the lambda that is needed."""
    reached, path = 0.0, []
    for epoch in range(epochs):
        settles = 1 / (1 + np.exp(-3 * (np.log10(lam) + 3 * ease)))
        reached += 0.3 * (settles - reached)
        path.append(lam)
        lam = controller.next(epoch, lam, reached)
    return controller.report(reached, path[-1]), path


@pytest.mark.parametrize("target", [0.2, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("ease", [0.8, 1.0, 1.3])
def test_a_target_is_reached_and_lambda_then_held(target, ease):
    controller = Controller(target, 60)
    report, path = plant(controller, 60, ease=ease)
    assert abs(report["reached"] - target) < NEAR
    assert report["missed"] == ""
    assert len(set(path[: controller.first])) == len(set(path[controller.held :])) == 1


def test_a_target_out_of_reach_says_how_far_it_came():
    report, _ = plant(Controller(0.9, 12), 12, ease=3.0)
    assert f"{report['reached']:.3f} of 0.9 reached" in report["missed"]


def test_lambda_follows_the_sparsity_of_training_and_is_in_the_record():
    result, controller = fitted(spec(target=0.5, **NARROW, epochs=8)).result(), Controller(0.5, 8)
    path, zeros = result["history"]["lambda"], result["history"]["group_sparsity"]
    wanted = [controller.next(epoch, path[epoch], zeros[epoch]) for epoch in range(7)]
    assert path[1:] == pytest.approx(wanted)
    assert len(set(path)) > 2
    assert result["target"]["reached"] == result["sparsity"]["group"]


@pytest.mark.parametrize(("zeros", "kept"), [((0.5, 0.65, 0.79), 2), ((0.65, 0.79, 0.9), 0), ((0.5, 0.59, 0.9), 2)])
def test_released_networks_are_tested_at_the_best_epoch_that_is_roughly_at_the_target_or_else_the_last(zeros, kept):
    run = training(lam=study.START, target=0.7, protocol="released", **NARROW, epochs=3)
    for epoch, (share, loss) in enumerate(zip(zeros, (1.0, 3.0, 2.0), strict=True)):
        run._zeros = lambda share=share: share
        run._keep(epoch, {"sum": loss})
    assert run.best["sum"]["epoch"] == kept


def test_under_l1_lambda_is_adapted_to_the_end_and_the_last_network_is_tested():
    run = training(lam=study.START, target=0.7, penalty="l1", count="parameter", **NARROW)
    assert run.controller.next(run.p["epochs"] - 2, 1e-5, 0.1) > 1e-5
    for epoch in range(run.p["epochs"]):
        run._keep(epoch, {"sum": 1.0})
    assert run.best["sum"]["epoch"] == run.p["epochs"] - 1


@pytest.mark.parametrize("changed", [{"target": 0.5}, {"penalty": "group_lasso"}, {"target": None, "lam": 0.0}])
@pytest.mark.parametrize("protocol", ["paper", "released"])
def test_what_a_controller_needs_follows_a_penalty_or_target_given_later(protocol, changed):
    def made(lam, **arm):
        return dict(study.specs("quick", ("seg",), (lam,), protocol=protocol, **arm)[0].params)

    arm = {"target": 0.7, "penalty": "l1", "lam": study.START}
    assert study.settled(made(**arm), changed) == made(**arm | changed)
