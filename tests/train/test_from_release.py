"""A run of the PyTorch release goes on: against torch's AdamW itself."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import optax
import pytest
from small_run import SmallRun, settings

from flair_jax.errors import CheckpointError, ConfigError
from flair_jax.models.config import FlairConfig
from flair_jax.parallel.sharding import make_mesh
from flair_jax.settings import TrainSettings
from flair_jax.train.flags import parse_config
from flair_jax.train.from_release import resume_release
from flair_jax.train.optim import make_schedule
from flair_jax.train.run import train
from flair_jax.train.step import TrainState, abstract_state
from flair_jax.weights.param_map import ConversionError, params_from_torch, torch_shapes
from flair_jax.weights.training_file import read_training_file

torch = pytest.importorskip("torch")

STEPS, UPDATES = 12, 5


class Release:
    """A training run of the release, but for its gradients, which are noise."""

    def __init__(self, config: FlairConfig, names: list[str], schedule: optax.Schedule) -> None:
        shapes, rng = torch_shapes(config), np.random.default_rng(0)
        names = [name for name in names if name in shapes]
        assert len(names) == len(shapes)
        self.config, self.schedule = config, schedule
        self.params = {
            name: torch.nn.Parameter(torch.from_numpy(rng.normal(0.5, 0.3, shapes[name]).astype(np.float32)))
            for name in names
        }
        excluded = [
            name
            for name in names
            if len(shapes[name]) < 2 or any(part in name for part in ("bn", "ln", "bias", "logit_scale"))
        ]
        rest = [name for name in names if name not in excluded]
        groups = [
            {"params": [self.params[name] for name in part], "weight_decay": decay}
            for part, decay in ((excluded, 0.0), (rest, 0.5))
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=5e-4, betas=(0.9, 0.98), eps=1e-8)

    def step(self, number: int) -> dict:
        """Makes the step of this number, and returns its gradients as our tree."""
        rng = np.random.default_rng(1000 + number)
        grads = {name: rng.normal(0, 1e-2, tuple(each.shape)).astype(np.float32) for name, each in self.params.items()}
        for name, each in self.params.items():
            each.grad = torch.from_numpy(grads[name].copy())
        for group in self.optimizer.param_groups:
            group["lr"] = float(self.schedule(number))
        self.optimizer.step()
        return params_from_torch(grads, self.config)

    def save(self, path: Path, **changes: object) -> Path:
        state = {f"module.{name}": each.detach() for name, each in self.params.items()}
        content = {"epoch": 3, "name": "cc3m", "state_dict": state, "optimizer": self.optimizer.state_dict()}
        torch.save({**content, "scaler": {"scale": 65536.0, "_growth_tracker": 7}, **changes}, path)
        return path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> SmallRun:
    folder = tmp_path_factory.mktemp("run")
    return SmallRun(folder, settings(folder, **{"optimizer.learning_rate": 5e-4}))


@pytest.fixture(scope="module")
def release(run, golden) -> Release:
    """After a few steps; the order of its tensors is that of a released checkpoint."""
    names = list(json.loads((golden / "ViT-B-16-FLAIR.keys.json").read_text())["tensors"])
    made = Release(run.model.config, names, make_schedule(run.settings.optimizer, STEPS))
    for number in range(UPDATES):
        made.step(number)
    return made


@pytest.fixture(scope="module")
def file(release, tmp_path_factory) -> Path:
    return release.save(tmp_path_factory.mktemp("release") / "epoch_3.pt")


def resumed(run: SmallRun, file: Path, **changes) -> tuple[TrainState, int]:
    asked = settings(run.workdir, **{"optimizer.learning_rate": 5e-4, "resume": str(file), **changes})
    other = SmallRun(run.workdir, asked)
    with jax.set_mesh(other.mesh):
        return resume_release(asked, STEPS, other.model, other.target)


def test_one_further_step_is_that_of_torch(run, golden, file, tmp_path) -> None:
    """The step moves parameters by up to 5e-4; ours differs from torch's by rounding, 2.4e-7 at most (measured)."""
    names = list(json.loads((golden / "ViT-B-16-FLAIR.keys.json").read_text())["tensors"])
    theirs = Release(run.model.config, names, make_schedule(run.settings.optimizer, STEPS))
    for number in range(UPDATES):
        theirs.step(number)
    state, done = resumed(run, file)
    assert (done, int(state.step)) == (UPDATES, UPDATES)
    for number in range(UPDATES, UPDATES + 2):
        grads = theirs.step(number)
        updates, opt_state = jax.jit(run.optimizer.update)(grads, state.opt_state, state.params)
        state = TrainState(state.step + 1, optax.apply_updates(state.params, updates), opt_state)
        wanted = params_from_torch({name: each.detach().numpy() for name, each in theirs.params.items()}, theirs.config)
        for (path, ours), expected in zip(
            jax.tree.leaves_with_path(state.params), jax.tree.leaves(wanted), strict=True
        ):
            np.testing.assert_allclose(ours, expected, rtol=0, atol=1e-6, err_msg=jax.tree_util.keystr(path))


def test_other_forms_of_the_state(run, file) -> None:
    """With clipping, rates by tower, a locked tower and an average, on a mesh: the moments are the same."""
    plain, _ = resumed(run, file)
    other, _ = resumed(
        run,
        file,
        lock=("text",),
        **{"optimizer.clip_norm": 1.0, "optimizer.image_rate": 0.5, "optimizer.ema_decay": 0.9},
    )
    for tree in (other.params, other.ema):
        jax.tree.map(np.testing.assert_array_equal, tree, plain.params)

    def moments(state: TrainState) -> list[np.ndarray]:
        kernel = state.params["vision"]["blocks"]["mlp"]["up"]["kernel"].shape
        return [np.asarray(leaf) for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == kernel]

    assert len(moments(other)) == 2
    assert len(moments(plain)) == 4, "those of both towers, which are alike here"
    for ours, theirs in zip(moments(other), moments(plain)[1::2], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    counts = [int(leaf) for leaf in jax.tree.leaves(other.opt_state) if leaf.dtype == np.int32]
    assert set(counts) == {UPDATES}

    mesh = make_mesh(run.settings.mesh.__class__(data=1, fsdp=2, tensor=2), jax.devices()[:4])
    target = abstract_state(run.model, run.optimizer, mesh)
    with jax.set_mesh(mesh):
        asked = settings(run.workdir, resume=str(file))
        spread, _ = resume_release(asked, STEPS, run.model, target)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(spread), jax.device_get(plain))
    kernel = spread.params["vision"]["blocks"]["mlp"]["up"]["kernel"]
    assert kernel.sharding.shard_shape(kernel.shape) != kernel.shape


def test_what_differs_is_said(run, release, tmp_path, caplog) -> None:
    content = release.optimizer.state_dict()
    state = {**content["state"]}
    del state[3]
    state[4] = {**state[4], "step": torch.tensor(2.0)}
    path = release.save(tmp_path / "a.pt", optimizer={**content, "state": state}, epoch=None)
    resumed(run, path, **{"optimizer.b2": 0.95, "optimizer.weight_decay": 0.2})
    assert "a.pt: going on after 5 updates\n" in caplog.text
    assert "config.optimizer.b2 was 0.98 there, is 0.95" in caplog.text
    assert "config.optimizer.weight_decay was 0.5 there, is 0.2" in caplog.text
    assert "optimizer.eps" not in caplog.text
    assert "1 tensor without an optimiser's state in the file, which starts at zero" in caplog.text
    assert "1 tensor with fewer than 5 updates, counted as with all" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("optimizer"), "holds no optimiser's state .* name it as config.init"),
        (lambda content: content.update(optimizer=[1]), "holds no optimiser's state"),
        (lambda content: content["optimizer"].update(state={}), "has made no update yet; name it as config.init"),
        (lambda content: content["optimizer"].update(param_groups=3), "its `optimizer` is not AdamW's state"),
        (
            lambda content: content["optimizer"]["param_groups"].pop(0),
            "its optimiser has .* parameters in its groups, the model .* and .* without and with decay",
        ),
        (lambda content: content["optimizer"]["state"][0].pop("exp_avg"), "is not AdamW's state .KeyError..'?exp_avg"),
        (
            lambda content: content["optimizer"]["state"][0].update(exp_avg=torch.zeros(3, 5)),
            r"exp_avg of .* is \[3, 5\], the tensor .*another order of parameters",
        ),
        (
            lambda content: content["optimizer"]["state"][0].update(exp_avg_sq=float("nan")),
            "exp_avg_sq of .*1 NaN",
        ),
        (
            lambda content: content["optimizer"]["state"][0]["exp_avg"].fill_(float("inf")),
            "exp_avg of .* infinite",
        ),
        (lambda content: content["optimizer"]["state"].update(x={}), "is not AdamW's state"),
        (lambda content: content["optimizer"]["param_groups"][1].update(eps="small"), "is not AdamW's state"),
    ],
)
def test_damaged_files(file, tmp_path, change, message: str) -> None:
    content = torch.load(file, weights_only=True)
    change(content)
    torch.save(content, tmp_path / "bad.pt")
    with pytest.raises(ConversionError, match=f"bad.pt: .*{message}"):
        read_training_file(tmp_path / "bad.pt")


def test_runs_that_cannot_go_on(run, file, tmp_path) -> None:
    with pytest.raises(ConfigError, match="its optimiser is AdamW; set config.optimizer.name to adamw"):
        resumed(run, file, **{"optimizer.name": "lion"})
    with pytest.raises(ConfigError, match=r"resume=.* and config.init=b: a run starts from one of them"):
        resumed(run, file, init="b")
    with (
        jax.set_mesh(run.mesh),
        pytest.raises(CheckpointError, match="has 5 updates behind it, and the run is 4 steps"),
    ):
        resume_release(settings(run.workdir, resume=str(file)), 4, run.model, run.target)
    with pytest.raises(ConversionError, match="gone.pt"):
        resumed(run, tmp_path / "gone.pt")
    with pytest.raises(ConfigError, match=f"resume={tmp_path}: is a folder, .*epoch_N.pt; .*name it as config.init"):
        resumed(run, tmp_path)
    shutil.copy(file, tmp_path / "vit-quickgelu.pt")
    with pytest.raises(ConfigError, match="its activation is not that of config.model"):
        resumed(run, tmp_path / "vit-quickgelu.pt")


def test_a_run_from_it_and_its_own_checkpoints(config, scenes, golden, tmp_path, capsys) -> None:
    """It begins with step 6, saves, and the next start takes its own checkpoint, whatever `resume` says."""
    asked = parse_config([f"--config={config}", f"--config.resume={tmp_path / 'epoch_3.pt'}", "--config.steps=7"])
    names = list(json.loads((golden / "ViT-B-16-FLAIR.keys.json").read_text())["tensors"])
    chosen = TrainSettings.from_config(asked)
    made = Release(chosen.model_config(), names, make_schedule(chosen.optimizer, 7))
    for number in range(UPDATES):
        made.step(number)
    made.save(tmp_path / "epoch_3.pt")
    outcome = train(chosen, tmp_path / "run")
    assert outcome.finished
    assert "resuming after step 5" in capsys.readouterr().out
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [6, 7]
    (tmp_path / "epoch_3.pt").unlink()
    assert train(chosen, tmp_path / "run").checkpoint.name == "7", "its own checkpoint counts"
    assert np.isfinite([line["loss"] for line in lines]).all()
