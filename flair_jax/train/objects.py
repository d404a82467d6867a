"""The objects of a run: those that a caller gives, those that a configuration's factories make, or our own."""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import optax

from flair_jax.data.sets.training import open_sets
from flair_jax.data.sources import Source
from flair_jax.errors import ConfigError
from flair_jax.models.config import COMPUTE_SETTINGS
from flair_jax.models.flair import Flair
from flair_jax.settings import Factory, TrainSettings
from flair_jax.train.failures import explained
from flair_jax.train.locked import keep_locked
from flair_jax.train.losses import Loss, make_loss
from flair_jax.train.optim import make_optimizer, make_schedule


@dataclasses.dataclass(frozen=True)
class Objects:
    """The model, optimiser and loss of a run.

    Attributes:
      model: the model.
      optimizer: its updates leave locked towers as they are.
      schedule: learning rate by step; None for an optimiser that is not our own.
      loss: the loss.
      names: qualified names of those that are not our own, by kind: "model", "optimizer", "loss".
    """

    model: Flair
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule | None
    loss: Loss
    names: Mapping[str, str]


def make_objects(
    settings: TrainSettings,
    *,
    model: Flair | None = None,
    optimizer: optax.GradientTransformation | None = None,
    loss: Loss | None = None,
) -> Objects:
    """The objects that a run trains with. One that is given takes precedence over a factory, and that over our own.

    Args:
      settings: of the run, with `steps` set to the number of steps of the whole run.
      model: see `flair_jax.train.train`.
      optimizer: likewise.
      loss: likewise.

    Raises:
      ConfigError: if a factory fails, an object is of the wrong type, or settings and model disagree.
    """
    model, found = find_model(settings, model)
    names = dict(found)
    optimizer = _find("optimizer", optimizer, settings, names)
    loss = _find("loss", loss, settings, names)
    schedule = None
    if optimizer is None:
        schedule = make_schedule(settings.optimizer, settings.steps)
        optimizer = make_optimizer(settings.optimizer, schedule, settings.lock, settings.unlocked_groups)
    else:
        optimizer = keep_locked(optimizer, settings.lock, settings.unlocked_groups)
    if settings.patch_dropout:
        model.check_patches()
    return Objects(model, optimizer, schedule, loss or make_loss(settings.loss, settings.group_size), names)


def find_model(
    settings: TrainSettings, given: Flair | None = None, *, dtype: str | None = None
) -> tuple[Flair, Mapping[str, str]]:
    """The model alone, and the qualified name of where it comes from, as in `Objects.names`.

    Args:
      settings: see `make_objects`.
      given: the `model` there.
      dtype: what the model computes in, whatever the settings and a factory say. By default it is that of the settings,
        and a model with another is an error.

    Raises:
      ConfigError: see `make_objects`.
    """
    names: dict[str, str] = {}
    settings = dataclasses.replace(settings, dtype=dtype or settings.dtype)
    model = _find("model", given, settings, names)
    if model is None:
        return Flair(settings.model_config()), names
    if dtype is not None:  # a factory need not look at the settings
        model = dataclasses.replace(model, config=dataclasses.replace(model.config, dtype=dtype))
    _check_compute(model, settings)
    return model, names


def find_sources(settings: TrainSettings, given: Sequence[Source] = ()) -> tuple[Sequence[Source], Mapping[str, str]]:
    """The training samples, and the qualified name of where they come from, as in `Objects.names`.

    Args:
      settings: of the run; their data sets are opened if sources are neither given nor made.
      given: see `flair_jax.train.train`.

    Raises:
      ConfigError: if the factory fails, or what is given or made is not a sequence of sources.
      DatasetError: if a data set cannot be opened.
    """
    names: dict[str, str] = {}
    sources = _find("sources", None if given == () else given, settings, names)
    return (open_sets(settings.data) if sources is None else sources), names


def _are_sources(found: object) -> bool:
    needed = ("__len__", "__getitem__", "where")
    return (
        isinstance(found, (list, tuple))
        and len(found) > 0
        and all(hasattr(type(each), name) for each in found for name in needed)
    )


# Kind -> a test of an object, and the requirement in words.
_KINDS: dict[str, tuple[Callable[[object], bool], str]] = {
    "model": (lambda found: isinstance(found, Flair), "a flair_jax.Flair"),
    "optimizer": (lambda found: isinstance(found, optax.GradientTransformation), "an optax.GradientTransformation"),
    "loss": (lambda found: callable(found) and not isinstance(found, type), "a function, see flair_jax.train.Loss"),
    "sources": (_are_sources, "a list of flair_jax.data.Source"),
}


def _find(kind: str, given: Any, settings: TrainSettings, names: dict[str, str]) -> Any:
    """The object that is given or made, whose name is added to `names`; None if there is neither."""
    factory: Factory | None = getattr(settings.factories, kind)
    if given is not None:
        return _checked(given, kind, f"train({kind}=...)", names, _name_of_object)
    if factory is None:
        return None
    name = _qualified_name(factory)
    where = f"{_file_of(factory)}: config.factories.{kind}: what {name} returns"
    return _checked(_call(factory, kind, settings), kind, where, names, lambda *_: name)


def _checked(
    found: object, kind: str, where: str, names: dict[str, str], name_of: Callable[[str, object], str]
) -> object:
    fits, wanted = _KINDS[kind]
    if isinstance(found, optax.MultiSteps):  # is none by itself, but makes one
        found = optax.GradientTransformationExtraArgs(found.init, found.update)
    if not fits(found):
        raise ConfigError(f"{where} must be {wanted}, not {_described(found)}")
    if name := name_of(kind, found):
        names[kind] = name
    return found


def _call(factory: Factory, kind: str, settings: TrainSettings) -> object:
    file = _file_of(factory)
    with explained(f"{file}: config.factories.{kind}: {_qualified_name(factory)}", file):
        return factory(settings)


def _function_of(thing: Any) -> Any:
    """The function in a partial one; of other objects than functions, their class."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    return thing if inspect.isroutine(thing) else type(thing)


def _qualified_name(thing: object) -> str:
    function = _function_of(thing)
    return f"{function.__module__}.{function.__qualname__}"


def _file_of(factory: Factory) -> str:
    """The file that a factory is written in."""
    try:
        return inspect.getfile(inspect.unwrap(_function_of(factory)))
    except TypeError:  # it is not written in Python
        return _qualified_name(factory)


def _name_of_object(kind: str, thing: Any) -> str:
    """What tells an object from others of its kind, and stays the same with other versions of the libraries."""
    if kind == "model":  # its sizes are compared one by one
        return ", ".join(f"{name} {module}" for name, module in thing.own_modules.items())
    if kind == "optimizer":  # whose functions are closures of optax, wherever it comes from
        return "optax.GradientTransformation"
    if kind == "sources":
        return ", ".join(dict.fromkeys(map(_qualified_name, thing)))
    return _qualified_name(thing)


def _described(found: object) -> str:
    if isinstance(found, (list, tuple)) and found and not hasattr(found, "_fields"):
        return f"a {type(found).__name__} of {type(found[0]).__name__}"
    return f"the class {found.__name__}" if isinstance(found, type) else type(found).__name__


def _check_compute(model: Flair, settings: TrainSettings) -> None:
    """Raises ConfigError if a given model has other compute settings than the run."""
    for name in COMPUTE_SETTINGS:
        of_model, of_run = getattr(model.config, name), getattr(settings, name)
        if of_model != of_run:
            raise ConfigError(
                f"config.{name}={of_run!r}, but the model that is given has {name}={of_model!r}; set one like the "
                "other (settings.model_config() has the run's)"
            )
