"""The parameters that a run starts from: those of a checkpoint of the same model."""

from __future__ import annotations

from flair_jax import checkpoint
from flair_jax.errors import CheckpointError, ConfigError
from flair_jax.models.description import config_to_json
from flair_jax.models.flair import Flair, Params
from flair_jax.parallel.processes import Processes
from flair_jax.weights.locate import locate


def initial_params(name: str, model: Flair, target: Params) -> Params:
    """Parameters of another run or a converted checkpoint, which must be of the same model.

    Args:
      name: `config.init`.
      model: of the run.
      target: tree of `jax.ShapeDtypeStruct` with shardings.

    Raises:
      ConfigError: if it is another model's.
      CheckpointError: if there is none, or it is damaged.
    """
    processes = Processes.all()
    path = processes.together(lambda: locate(name))
    processes.agree(path.name, f"config.init={name}: the newest checkpoints")
    config = processes.together(lambda: checkpoint.read_model_config(path))
    found, wanted = config_to_json(config), config_to_json(model.config)
    names = dict.fromkeys((*wanted, *found))  # `quick_gelu` is only in descriptions where it is true
    wrong = [name for name in names if found.get(name) != wanted.get(name) and not name.startswith("init_")]
    if wrong:
        shorter = wrong == ["text_cfg"] and config.text.context_length < model.config.text.context_length
        longer = f"; `flair-jax convert --context-length {model.config.text.context_length}` stretches it"
        raise ConfigError(
            f"config.init={path}: is not the model config.model names; they differ in {', '.join(wrong)}"
            + (longer if shorter else "")
        )
    try:
        return checkpoint.restore_params(path, target, processes)
    except CheckpointError as error:  # a module of one's own may well have the parameters of another
        other = processes.together(lambda: checkpoint.other_modules(path, model))
        raise ConfigError(f"config.init={path}: {other}, whose parameters are others") if other else error from None
