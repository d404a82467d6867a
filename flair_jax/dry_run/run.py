"""A dry run: looks at everything that a training run needs, names all that is wrong, and shows the first batch."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import optax
from jax.sharding import Mesh

from flair_jax.console import in_one_sentence
from flair_jax.data.sources import Source
from flair_jax.dry_run.batch import FirstBatch, read_first
from flair_jax.dry_run.data import check_evaluation, open_data, say_captions
from flair_jax.dry_run.findings import Findings
from flair_jax.dry_run.memory import check_memory
from flair_jax.dry_run.sheet import describe_pairs, write_page, write_picture
from flair_jax.dry_run.workdir import check_space, check_workdir, in_bytes
from flair_jax.errors import FlairError, plural
from flair_jax.fields import read_fields
from flair_jax.models.flair import Flair
from flair_jax.parallel.sharding import check_batch, make_mesh
from flair_jax.setting_checks import problems
from flair_jax.settings import TrainSettings
from flair_jax.train.flags import TrainOptions
from flair_jax.train.from_release import resume_release
from flair_jax.train.identity import describe_run
from flair_jax.train.initial import initial_params
from flair_jax.train.input import repeats_pictures, sample_settings
from flair_jax.train.logger import import_wandb
from flair_jax.train.losses import make_loss
from flair_jax.train.objects import Objects, find_model, make_objects
from flair_jax.train.step import abstract_state
from flair_jax.train.trial import try_out


def dry_run(options: TrainOptions, sheet: Path, found: Findings) -> None:
    """Checks what `flair_jax.train.train` would do, and writes the first batch to `sheet` and a PNG beside it.

    Args:
      options: of the command line.
      sheet: an HTML file.
      found: gets facts, remarks and problems; they are printed as they are found.
    """
    settings = _read_settings(found, options.config)
    if settings is None:
        return
    with contextlib.ExitStack() as stack:
        rehearsal = _Rehearsal(found, settings, options.workdir, options.accept_changes, stack)
        rehearsal.check()
        if rehearsal.batch is not None:
            _write_sheet(rehearsal.batch, sheet, rehearsal)


def _read_settings(found: Findings, config: Mapping[str, Any]) -> TrainSettings | None:
    """The settings, with all that is wrong with their values; None if one is of the wrong type."""
    settings: TrainSettings | None = None
    with found.checking("config"):
        settings = read_fields(TrainSettings, config, "config")
    if settings is not None:
        for problem in problems(settings):
            found.problem("config", f"config.{problem}")
    return settings


class _Data(NamedTuple):
    sources: Sequence[Source]
    names: dict[str, str]
    samples: int | None  # None if not all of it is open
    steps: int | None


class _Rehearsal:
    """One check after the other; what one needs of an earlier one that failed is None."""

    def __init__(
        self, found: Findings, settings: TrainSettings, workdir: Path, accept_changes: bool, stack: contextlib.ExitStack
    ) -> None:
        self.found, self.settings, self.workdir, self.accept_changes = found, settings, workdir, accept_changes
        self.stack = stack
        self.mesh: Mesh | None = None
        self.data: _Data | None = None
        self.model: Flair | None = None
        self.objects: Objects | None = None
        self.batch: FirstBatch | None = None

    def check(self) -> None:
        """All of it."""
        for what, check in (
            ("devices", self._devices),
            ("data", self._open_data),
            ("model", self._make_model),
            ("optimiser", self._make_objects),
            ("batch", self._read_batch),
            ("evaluation", self._evaluations),
            ("workdir", self._start),
            ("memory", self._memory),
        ):
            with self.found.checking(what):
                check()
        if self.batch is None:
            self.found.remark("the first batch is not read, for what it needs is among the problems")

    def _devices(self) -> None:
        settings, devices = self.settings, jax.devices()
        mesh = make_mesh(settings.mesh)
        check_batch(settings.batch_size, settings.accumulation_steps, mesh)
        self.mesh = mesh
        parts = mesh.shape["data"] * mesh.shape["fsdp"] * settings.accumulation_steps
        axes = ", ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
        self.found.say(
            "devices",
            f"{plural(mesh.size, f'{devices[0].device_kind} device')}, mesh {axes}; "
            f"{plural(settings.batch_size // parts, 'image')} on each at once, {settings.batch_size:,} in a step",
        )

    def _open_data(self) -> None:
        settings = self.settings
        if (opened := open_data(self.found, settings, self.stack)) is None:
            return
        samples = sum(map(len, opened.sources)) if opened.whole else None
        steps = None
        self.data = _Data(opened.sources, opened.names, samples, steps)
        if samples is None and not settings.steps and not settings.data.epoch_samples:
            return
        steps = settings.total_steps(samples or 0)
        self.data = self.data._replace(steps=steps)
        in_epoch = (settings.data.epoch_samples or samples or 0) / settings.batch_size
        epochs = (
            f"; an epoch has {in_epoch:,.1f} steps, so these are {steps / in_epoch:,.2f} epochs" if in_epoch else ""
        )
        counted = "" if samples is None else f"{plural(samples, 'sample')}, "
        self.found.say("data", f"{settings.data.name}: {counted}{plural(steps, 'step')}{epochs}")
        if samples is not None and (words := repeats_pictures(settings.batch_size, samples)):
            self.found.remark(words)

    def _make_model(self) -> None:
        self.model, _ = find_model(self.settings)
        if self.settings.wandb_project:
            import_wandb()

    def _make_objects(self) -> None:
        settings, steps = self.settings, self.data.steps if self.data else None
        if settings.factories.loss is None:
            with self.found.checking("loss"):
                make_loss(settings.loss, settings.group_size)
        longest = max(settings.optimizer.warmup_steps + settings.optimizer.cooldown_steps, 1)
        objects = make_objects(dataclasses.replace(settings, steps=longest if steps is None else steps))
        self.objects = objects
        if self.mesh is not None:
            with jax.set_mesh(self.mesh):
                try_out(objects, settings)

    def _read_batch(self) -> None:
        if self.data is None or self.model is None or self.mesh is None:
            return
        settings, model = self.settings, self.model
        samples = sample_settings(settings, model, self.mesh)
        self.found.say("tokenizer", f"{samples.tokenizer.description}, context of {samples.context_length} tokens")
        self.batch = read_first(self.data.sources, samples, settings.batch_size, settings.data.weights)
        say_captions(self.found, self.batch, samples.context_length)
        if self.batch.skipped:
            self.found.remark(
                f"{self.batch.skipped} of the first {len(self.batch.rows)} samples cannot be used, and the run would "
                "take the next ones instead; the warnings above name them"
            )
        if samples.packing:
            self.found.remark("captions are packed; `flair-jax data stats` says how often one is cut for it")

    def _evaluations(self) -> None:
        asked = {"": self.settings.evaluation, **self.settings.evaluations}
        for name, each in asked.items():
            if each.every_steps > 0 and self.model is not None:
                with self.found.checking("evaluation"):
                    check_evaluation(self.found, name, each, self.model, self.data and self.data.steps)
            elif each.every_steps > 0:
                self.found.remark(f"the evaluation {name} is not looked at, for there is no model".replace("  ", " "))
        if not any(each.every_steps for each in asked.values()):
            self.found.say("evaluation", "none")

    def _start(self) -> None:
        run = None
        if self.data and self.data.samples is not None and self.objects:
            names = {**self.data.names, **self.objects.names}
            run = describe_run(self.settings, self.data.samples, self.objects.model.config, names)
        resumed = check_workdir(
            self.found, self.workdir, self.settings.checkpoint, run, accept_changes=self.accept_changes
        )
        start = self.settings.init or self.settings.resume
        if resumed is not None and start:
            self.found.say("", f"{start} is not read, for the run does not begin")
        elif start:
            self._read_initial(start)

    def _read_initial(self, name: str) -> None:
        """Reads what the run would start from, as the run does."""
        if self.model is None or self.mesh is None:
            return
        settings, model = self.settings, self.model
        ema = settings.optimizer.ema_decay > 0
        # The optimiser, which may be at fault, has no part in the parameters.
        optimizer = self.objects.optimizer if self.objects else optax.identity()
        target = abstract_state(model, optimizer, self.mesh, ema=ema)
        with self.found.checking("start"), jax.set_mesh(self.mesh):
            if settings.resume and self.objects:
                steps = (self.data and self.data.steps) or 2**31 - 1
                resume_release(settings, steps, model, target)
            elif settings.resume:
                return
            else:
                initial_params(name, model, target.params)
            self.found.say("start", f"{name}: read, and fits the model")

    def _memory(self) -> None:
        settings = self.settings.checkpoint
        if self.objects is None or self.mesh is None:
            return
        size = check_memory(self.found, self.settings, self.objects, self.mesh)
        kept = f", and each {settings.keep_every_steps:,} steps one for good" if settings.keep_every_steps else ""
        self.found.say(
            "checkpoints",
            f"every {plural(settings.every_steps, 'step')} and at the end, up to {in_bytes(size)} each (compressed); "
            f"the last {settings.keep:,} are kept{kept}",
        )
        check_space(self.found, self.workdir, settings, size)


def _write_sheet(batch: FirstBatch, sheet: Path, rehearsal: _Rehearsal) -> None:
    """Writes the page, if Jinja2 is there, and the PNG; neither is needed to train."""
    found, picture = rehearsal.found, sheet.with_suffix(".png")
    written = []
    try:
        write_picture(picture, batch)
        written = [str(picture)]
        pairs = describe_pairs(rehearsal.settings, rehearsal.settings.factories.loss is not None)
        write_page(sheet, batch, rehearsal.settings, pairs, found.facts)
        written = [str(sheet), *written]
    except FlairError as error:
        found.remark(str(error))
    except OSError as error:
        found.remark(f"the batch is not shown ({in_one_sentence(error) or error}); --contact-sheet names another place")
    if written:
        found.say("first batch", f"{' and '.join(written)}: {len(batch.rows)} images of it")
