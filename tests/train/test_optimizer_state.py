"""Any optimiser's state is saved and restored as it was; another optimiser keeps what means the same to both."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from small_run import SmallRun, settings

from flair_jax.errors import AnotherRunError
from flair_jax.setting_checks import OPTIMIZER_NAMES

OBJECTS = {
    "sgd": optax.sgd(1e-3),
    "adafactor of Optax": optax.adafactor(1e-3),
    "muon of Optax": optax.contrib.muon(1e-3),
    "injected": optax.inject_hyperparams(optax.adamw)(learning_rate=lambda step: 1e-3 * step),
    "not finite": optax.apply_if_finite(optax.adam(1e-3), 3),
    "several steps": optax.MultiSteps(optax.adam(1e-3), 2).gradient_transformation(),
    "schedule free": optax.contrib.schedule_free_adamw(1e-3),
    "masked": optax.masked(optax.adam(1e-3), lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params)),
    "named": optax.named_chain(("noise", optax.add_noise(0.1, 0.5, jax.random.key(0))), ("step", optax.scale(0.1))),
    "nothing": optax.GradientTransformation(lambda _: None, lambda updates, state, _=None: (updates, state)),
    "of all kinds": optax.GradientTransformation(
        lambda params: {"n": 3, "x": (0.5, None, [], True), "e": optax.EmptyState(), "p": [params, jax.random.key(1)]},
        lambda updates, state, _=None: (updates, state),
    ),
}


def same(one, other) -> bool:
    return jax.tree.structure(one) == jax.tree.structure(other) and jax.tree.all(
        jax.tree.map(lambda a, b: a.dtype == b.dtype and bool(jnp.array_equal(a, b)), one, other)
    )


@pytest.mark.parametrize("name", [*OPTIMIZER_NAMES, *OBJECTS])
def test_every_optimiser_resumes(tmp_path, name: str) -> None:
    given = name in OBJECTS
    run = SmallRun(tmp_path / "run", settings(tmp_path, **{"optimizer.name": "adamw" if given else name}))
    if given:
        run.optimizer = OBJECTS[name]
    state = run.first()
    with jax.set_mesh(run.mesh), run.checkpoints() as checkpoints:
        checkpoints.save(state, 3)
    for accept_changes in (False, True):
        restored, step = run.restore(accept_changes)
        assert step == 3
        assert same(restored, state)


def changed(run: SmallRun, **changes: object) -> SmallRun:
    return SmallRun(run.workdir, settings(run.workdir.parent, **changes))


def kept(run: SmallRun, other: SmallRun, caplog) -> tuple[dict[str, np.ndarray], list[str]]:
    """The state of another optimiser by name, from that of a run in which every number is 6; and what was said."""
    run.save(6)
    with pytest.raises(AnotherRunError, match="config.optimizer.name was"):
        other.restore()
    state, _ = other.restore(accept_changes=True)
    named = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree.leaves_with_path(state.opt_state)
    }
    return named, [line for line in caplog.messages if line.startswith("the optimiser's state")]


def test_from_adamw_to_muon_keeps_what_adamw_still_does(tmp_path, caplog) -> None:
    run = SmallRun(tmp_path / "run", settings(tmp_path))
    named, said = kept(run, changed(run, **{"optimizer.name": "muon"}), caplog)
    of = {re.sub("(0/)?inner_states?/", "", name): leaf for name, leaf in named.items()}
    assert np.all(of["adamw/0/mu/text/token_embedding"] == 6)
    assert np.all(of["adamw/0/nu/text/token_embedding"] == 6)
    assert of["adamw/0/count"] == of["adamw/2/count"] == 6
    assert not np.any(of["muon/muon/0/mu/text/projection/kernel"])
    assert of["muon/muon/0/count"] == 0
    np.testing.assert_array_equal(of["muon/muon/0/ns_coeffs"], np.float32([3.4445, -4.7750, 2.0315]))
    assert of["muon/muon/3/count"] == 6  # the schedule goes on
    assert said == [
        "the optimiser's state: count (1 array) starts anew",
        "the optimiser's state: mu (18 arrays) starts anew",
        "the optimiser's state: ns_coeffs (1 array) starts anew",
        *(
            f"the optimiser's state: {moment}/{part} ({number} arrays) has no use any more"
            for moment in ("mu", "nu")
            for part, number in (("pooling", 4), ("text", 7), ("vision", 7))
        ),
    ]


@pytest.mark.parametrize("name", ["lion", "adafactor"])
def test_momentums_of_another_meaning_start_anew_and_schedules_go_on(tmp_path, caplog, name: str) -> None:
    run = SmallRun(tmp_path / "run", settings(tmp_path))
    named, said = kept(run, changed(run, **{"optimizer.name": name}), caplog)
    (schedule,) = (leaf for leaf in named.values() if leaf.dtype == np.int32 and leaf.shape == () and leaf == 6)
    assert schedule == 6
    assert not any(np.any(leaf) for leaf in named.values() if leaf is not schedule)
    assert "the optimiser's state: nu (61 arrays) has no use any more" in said


def test_another_form_of_the_same_keeps_all(tmp_path, caplog) -> None:
    """Clipping and rates stand before and behind in its tree."""
    for name in OPTIMIZER_NAMES:
        (tmp_path / name).mkdir()
        run = SmallRun(tmp_path / name / "run", settings(tmp_path / name, **{"optimizer.name": name}))
        run.save(6)
        changes = {"optimizer.name": name, "optimizer.clip_norm": 1.0, "optimizer.layer_decay": 0.5}
        state, _ = changed(run, **changes).restore(accept_changes=True)
        assert all(np.all(np.asarray(leaf) == 6) for leaf in jax.tree.leaves(state.opt_state)), name
    assert "optimiser's state" not in caplog.text
