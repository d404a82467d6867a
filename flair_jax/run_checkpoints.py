"""Checkpoints of a training run: saved while it goes on, resumed from the newest that is whole.

Each is a folder WORKDIR/checkpoints/STEP that `flair_jax.load` reads as well; it appears under that name only once it
is complete.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import orbax.checkpoint as ocp

from flair_jax.checkpoint import DESCRIPTION, PARAMS
from flair_jax.errors import CheckpointError
from flair_jax.models.config import FlairConfig, config_to_json
from flair_jax.settings import CheckpointSettings
from flair_jax.train_state import TrainState

_OPTIMIZER, _PROGRESS = "optimizer", "progress"


class RunCheckpoints:
    """The checkpoints of one run; use it as a context manager, whose end waits for the last save."""

    def __init__(
        self, workdir: Path, settings: CheckpointSettings, config: FlairConfig, identity: dict[str, Any]
    ) -> None:
        """Opens, and where needed makes, the run's folder.

        Args:
          workdir: the run's folder.
          settings: what to keep.
          config: the model's description, saved with the weights.
          identity: what must be the same when the run goes on, such as its seed and data; JSON values by name.
        """
        self._settings = settings
        self._description = {**config_to_json(config), "source": {"run": workdir.name}}
        self._identity = identity
        self._folder = workdir.absolute() / "checkpoints"
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=settings.keep,
                keep_period=settings.keep_every_steps or None,
                cleanup_tmp_directories=True,
                create=True,
            ),
        )

    def __enter__(self) -> RunCheckpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A save in the background that failed too says no more than what ends the run.
        with contextlib.suppress(Exception) if error else contextlib.nullcontext():
            self._manager.close()

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self._folder / str(step)

    def save(self, state: TrainState, step: int) -> None:
        """Starts to save; returns once the arrays are copied, and writes in the background."""
        if step == self._manager.latest_step():
            return
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{
                    PARAMS: ocp.args.StandardSave(state.params),
                    _OPTIMIZER: ocp.args.StandardSave({"step": state.step, "opt_state": state.opt_state}),
                    DESCRIPTION: ocp.args.JsonSave(self._description),
                    # The data stream's whole state is the number of its next batch.
                    _PROGRESS: ocp.args.JsonSave({"next_batch": step, "identity": self._identity}),
                }
            ),
        )

    def check(self) -> None:
        """Raises what a save in the background has failed with."""
        if not self._manager.is_saving_in_progress():
            self._manager.wait_until_finished()

    def wait(self) -> None:
        """Returns when what was saved is on disk."""
        self._manager.wait_until_finished()

    def restore(self, target: TrainState) -> tuple[TrainState, int] | None:
        """The newest checkpoint that can be read, and its step; None if there is none at all.

        One that is damaged is named in a warning and set aside under another name.

        Args:
          target: from `abstract_state`: shapes and shardings, whatever devices the checkpoint was saved from.

        Raises:
          CheckpointError: if the run in the folder is another one, or no checkpoint of it can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                restored = self._manager.restore(step, args=ocp.args.Composite(**{_PROGRESS: ocp.args.JsonRestore()}))
                identity = restored[_PROGRESS]["identity"]
            except Exception as error:  # Orbax and its storage raise many kinds for a damaged file
                self._set_aside(step, error)
                continue
            self._check_identity(identity)
            try:
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        **{
                            PARAMS: ocp.args.StandardRestore(target.params),
                            _OPTIMIZER: ocp.args.StandardRestore({"step": target.step, "opt_state": target.opt_state}),
                        }
                    ),
                )
            except Exception as error:
                self._set_aside(step, error)
                continue
            return TrainState(restored[_OPTIMIZER]["step"], restored[PARAMS], restored[_OPTIMIZER]["opt_state"]), step
        if steps:
            raise CheckpointError(
                f"{self._folder}: none of the {len(steps)} checkpoint(s) can be read; start elsewhere"
            )
        return None

    def _check_identity(self, found: dict[str, Any]) -> None:
        changed = [
            f"{name} was {found.get(name)!r}, is {value!r}"
            for name, value in self._identity.items()
            if found.get(name) != value
        ]
        if changed:
            raise CheckpointError(
                f"{self._folder}: holds another run ({'; '.join(changed)}); use the same settings or another --workdir"
            )

    def _set_aside(self, step: int, error: Exception) -> None:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        logging.warning("checkpoint %s is damaged and skipped (%s)", self.path(step), reason)
        if jax.process_index() == 0:
            aside = self._folder.parent / "damaged"
            aside.mkdir(exist_ok=True)
            os.rename(self.path(step), aside / f"{step}-{len(list(aside.iterdir()))}")
        self._manager.reload()
