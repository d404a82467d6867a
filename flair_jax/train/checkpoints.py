"""Checkpoints of a training run: saved while it runs, resumed from the newest that is intact.

Each is a folder WORKDIR/checkpoints/STEP that `flair_jax.load` reads as well; it appears under that name only once it
is complete. One is set aside, in WORKDIR/damaged, only if its digests prove that its files are not what was written.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import optax
import orbax.checkpoint as ocp

from flair_jax import buckets
from flair_jax.checkpoint import AVERAGE, PARAMS, describe, find_damage, has_digests
from flair_jax.errors import CheckpointError
from flair_jax.files import absolute, make_folder, move, writing
from flair_jax.models.flair import Flair
from flair_jax.parallel.processes import Processes
from flair_jax.settings import CheckpointSettings
from flair_jax.train.goodput import checkpoints_gone
from flair_jax.train.optimizer_state import restore_what_fits
from flair_jax.train.resuming import PROGRESS, UNREADABLE, changes_to_resume, check_step, recorded_run
from flair_jax.train.saved import ITEMS
from flair_jax.train.step import TrainState
from flair_jax.weights import digests
from flair_jax.weights.locate import DESCRIPTION, RUN_FOLDER

_OPTIMIZER = "optimizer"
_LOGGER = logging.getLogger(__name__)


class RunCheckpoints:
    """The checkpoints of one run; a context manager, which waits for the last save at the end."""

    def __init__(self, workdir: Path, settings: CheckpointSettings, model: Flair, run: dict[str, Any]) -> None:
        """Opens, and where needed makes, the run's folder.

        Args:
          workdir: the run's folder.
          settings: which checkpoints to keep.
          model: its description is saved with the weights.
          run: from `identity.describe_run`; saved with each checkpoint, and compared when the run resumes.
        """
        self._settings = settings
        self._description = describe(model, {"run": workdir.name})
        self._run = run
        self._hosts = Processes.all()
        self._folder = absolute(workdir) / RUN_FOLDER
        self._aside = absolute(workdir) / "damaged"
        self._saving = 0
        with writing(str(self._folder)):
            make_folder(self._folder)
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=ocp.CheckpointManagerOptions(
                max_to_keep=settings.keep,
                keep_period=settings.keep_every_steps or None,
                cleanup_tmp_directories=True,
                # Orbax's notes on a checkpoint are not needed to open the run's folder, and may be damaged.
                lightweight_initialize=True,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_digests),
            ),
        )

    def __enter__(self) -> RunCheckpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # If a save in the background failed too, its error adds nothing to the one that ends the run.
        with contextlib.suppress(Exception) if error else contextlib.nullcontext():
            self._manager.close()

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self._folder / str(step)

    def save(self, state: TrainState, step: int) -> None:
        """Starts to save; returns once the arrays are copied, and writes in the background."""
        if step == self._manager.latest_step():
            return
        self._manager.wait_until_finished()  # so that the step that is being saved is one
        self._saving = step
        items: dict[str, ocp.args.CheckpointArgs] = {
            PARAMS: ocp.args.StandardSave(state.params),
            _OPTIMIZER: ocp.args.StandardSave({"step": state.step, "opt_state": state.opt_state}),
            DESCRIPTION: ocp.args.JsonSave(self._description),
            # The data stream's whole state is the number of its next batch.
            PROGRESS: ocp.args.JsonSave({"next_batch": step, "run": self._run}),
        }
        if state.ema is not None:
            items[AVERAGE] = ocp.args.StandardSave(state.ema)
        self._manager.save(step, args=ocp.args.Composite(**items))

    def check(self) -> None:
        """Raises the error of a save in the background, if one failed."""
        if not self._manager.is_saving_in_progress():
            self._manager.wait_until_finished()

    def wait(self) -> None:
        """Waits until everything that was saved is on disk."""
        self._manager.wait_until_finished()

    def _write_digests(self) -> None:
        """Called in the background, on one process, when all files are complete and not yet under the step's name."""
        if buckets.is_remote(self._folder):  # where it is not complete before Orbax has written its last file
            unfinished = self.path(self._saving)
        else:
            (unfinished,) = self._folder.glob(f"{self._saving}.orbax-checkpoint-tmp*")
        digests.write(unfinished, ITEMS)

    def restore(
        self, target: TrainState, optimizer: optax.GradientTransformation, accept_changes: bool = False
    ) -> tuple[TrainState, int] | None:
        """The newest intact checkpoint, and its step; None if there has never been one.

        Damaged ones are named in warnings and set aside; settings that differ from the checkpoint's are named, too, by
        `logging.info`.

        Args:
          target: from `abstract_state`: shapes and shardings, whatever devices the checkpoint was saved from.
          optimizer: whose state `target` describes.
          accept_changes: resume even if settings make the run another one; the parts of the optimiser's state that fit
            are kept.

        Raises:
          CheckpointError: if the run in the folder is another one or longer than is asked for, no checkpoint is intact,
            or the newest intact one cannot be restored. Nothing is moved then.
        """
        damaged = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            reason = find_damage(self.path(step), ITEMS, self._hosts)
            if reason is None:
                break
            self._warn("checkpoint %s is damaged and skipped (%s)", self.path(step), reason)
            damaged[step] = reason
        else:
            self._check_never_had_any(damaged)
            return None
        self._compare(step, accept_changes)
        state = self._read(step, target, optimizer, accept_changes)
        self._hosts.first_does(lambda: self._set_aside(damaged))
        self._manager.reload()
        return state, step

    def _check_never_had_any(self, damaged: dict[int, str]) -> None:
        """Raises CheckpointError if there are or were checkpoints: the run would start from step 1, and log anew."""
        if damaged:
            raise CheckpointError(
                f"{self._folder}: none of the checkpoints there is whole; put back a copy of one, or start the run "
                "again in another --workdir"
            )
        aside = max(self._hosts.gather(len(list(self._aside.iterdir())) if self._aside.is_dir() else 0))
        if aside:
            raise CheckpointError(
                f"{self._folder}: has no checkpoint, but {aside} of this run were set aside in {self._aside}; put back "
                f"one that is whole, or remove {self._aside} to start again from step 1"
            )
        if gone := max(self._hosts.gather(checkpoints_gone(self._folder.parent, self._settings.every_steps))):
            raise CheckpointError(gone)

    def _compare(self, step: int, accept_changes: bool) -> None:
        """Names the settings that changed; raises CheckpointError if they make another run and that is not accepted."""
        described = self._hosts.together(lambda: self._recorded(step))
        accepted, refusal = changes_to_resume(self.path(step), described, self._run, accept_changes)
        for change in accepted:
            self._remark("%s", change)
        if refusal:
            raise refusal

    def _recorded(self, step: int) -> dict[str, Any]:
        """The description of a checkpoint's run, as far as it has one."""
        try:
            recorded, saved_as = recorded_run(self.path(step))
        except UNREADABLE as error:
            raise self._unreadable(step, error) from error
        check_step(self.path(step), saved_as)
        return recorded

    def _read(
        self, step: int, target: TrainState, optimizer: optax.GradientTransformation, accept_changes: bool
    ) -> TrainState:
        of_optimizer = {"step": target.step, "opt_state": target.opt_state}
        averaged = (self.path(step) / AVERAGE).is_dir()
        items: dict[str, ocp.args.CheckpointArgs] = {PARAMS: ocp.args.StandardRestore(target.params)}
        if not accept_changes:
            items[_OPTIMIZER] = ocp.args.StandardRestore(of_optimizer)
        if averaged and target.ema is not None:
            items[AVERAGE] = ocp.args.StandardRestore(target.ema)
        try:
            restored = dict(self._manager.restore(step, args=ocp.args.Composite(**items)).items())
            if accept_changes:
                restored[_OPTIMIZER], lost = restore_what_fits(
                    self.path(step) / _OPTIMIZER, of_optimizer, optimizer, restored[PARAMS]
                )
                for each in lost:
                    self._warn("the optimiser's state: %s", each)
        except Exception as error:  # Orbax and its storage raise many kinds
            raise self._unreadable(step, error, accept_changes) from error
        if target.ema is not None and not averaged:
            self._remark("the average of the parameters starts from those of step %s, which has none", f"{step:,}")
            restored[AVERAGE] = jax.jit(lambda params: jax.tree.map(jnp.copy, params))(restored[PARAMS])
        elif target.ema is None and averaged:
            self._remark("the average of the parameters ends with step %s", f"{step:,}")
        of_optimizer = restored[_OPTIMIZER]
        return TrainState(of_optimizer["step"], restored[PARAMS], of_optimizer["opt_state"], restored.get(AVERAGE))

    def _unreadable(self, step: int, error: Exception, accept_changes: bool = False) -> CheckpointError:
        """The error for a checkpoint that is not proven to be damaged."""
        reason = " ".join((str(error).strip() or type(error).__name__).splitlines()[0].split())[:300]
        path = self.path(step)
        if has_digests(path) and accept_changes:
            what = "its files are as they were written, so it stays where it is; the model is another than the run's: "
            what += "use that one, or another --workdir"
        elif has_digests(path):
            what = "its files are as they were written, so it stays where it is; try again or, if another version of "
            what += "optax wrote it, add --accept-changes, which keeps of the optimiser's state what fits"
        else:
            what = "it has no digests that would tell damage from other causes, so it stays where it is; if it is "
            what += f"damaged, move it to {self._aside} to resume from the one before it"
        return CheckpointError(f"{path}: cannot be restored ({reason}); {what}")

    def _set_aside(self, damaged: dict[int, str]) -> None:
        for step in damaged:
            make_folder(self._aside)
            names = (self._aside / f"{step}-{number}" for number in itertools.count())
            move(self.path(step), next(name for name in names if not name.exists()))

    def _remark(self, text: str, *values: Any) -> None:
        """Says what is documented, and was asked for."""
        if self._hosts.index == 0:
            _LOGGER.info(text, *values)

    def _warn(self, text: str, *values: Any) -> None:
        if self._hosts.index == 0:
            logging.warning(text, *values)
