"""What `flair-jax data stats` says of the captions that training draws."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from flair_jax.commands.parser import positive
from flair_jax.errors import ConfigError, plural

if TYPE_CHECKING:
    from flair_jax.data.lengths import CaptionLengths, PackingAdvice
    from flair_jax.data.sources import Source
    from flair_jax.settings import TrainSettings

# Tokens of a row, if the configuration pads its captions; as in the published recipes.
_ROW_TOKENS = 128


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--config`, with it `--config.FIELD=VALUE`, and `--devices`."""
    parser.add_argument(
        "--config",
        metavar="NAME|FILE",
        default="default",
        help="draw captions as training with this configuration does (default %(default)s); --config.FIELD=VALUE as in "
        "`train`",
    )
    parser.add_argument(
        "--devices",
        metavar="N",
        type=positive,
        default=8,
        help="how many train, each of which has the captions of its own images (default %(default)s)",
    )
    parser.set_defaults(takes_more="--config.")


@dataclasses.dataclass(frozen=True)
class Drawing:
    """How captions are drawn and packed.

    Attributes:
      run: the settings of training.
      row_tokens: P; 0 if the model cannot read packed captions.
      images: of a group, see `flair_jax.models.PackedTexts`.
      groups: of a step.
    """

    run: TrainSettings
    row_tokens: int
    images: int
    groups: int


def read_drawing(options: argparse.Namespace) -> Drawing:
    """What a command with `add_options` is to draw; checked before a data set is read.

    Raises:
      ConfigError: if the configuration is invalid, its rows are too short, or its batch does not divide over the
        devices.
    """
    from flair_jax.data.packing import check_rows
    from flair_jax.data.tokenizer import find_tokenizer
    from flair_jax.settings import TrainSettings
    from flair_jax.train.flags import parse_config

    run = TrainSettings.from_config(parse_config([f"--config={options.config}", *options.words]))
    text = run.model_config().text
    find_tokenizer(text.tokenizer)
    row_tokens = (run.packing.row_tokens or max(_ROW_TOKENS, text.context_length)) if text.causal else 0
    if row_tokens:
        check_rows(row_tokens, text.context_length)
    sharing = options.devices // run.mesh.tensor if run.mesh.tensor > 0 else 1
    groups = sharing * run.accumulation_steps
    if not groups or options.devices % max(run.mesh.tensor, 1) or run.batch_size % groups:
        raise ConfigError(
            f"--devices {options.devices}: config.batch_size={run.batch_size} in "
            f"{plural(run.accumulation_steps, 'part')} does not divide over them with "
            f"config.mesh.tensor={run.mesh.tensor}; name the number of devices that train"
        )
    return Drawing(run, row_tokens, run.batch_size // groups, groups)


def measure(source: Source, drawing: Drawing, processes: int) -> tuple[CaptionLengths, PackingAdvice | None] | None:
    """Draws captions and packs simulated groups of them, with progress bars; None if there are no captions."""
    from flair_jax.data.lengths import advise, describe, draw_lengths
    from flair_jax.data.pipeline import SampleSettings
    from flair_jax.data.tokenizer import find_tokenizer

    run, model = drawing.run, drawing.run.model_config()
    settings = SampleSettings(
        seed=run.seed,
        image_size=model.vision.image_size,
        context_length=model.text.context_length,
        captions_per_image=run.captions_per_image,
        merged_sentences=run.data.merged_sentences,
        tokenizer=find_tokenizer(model.text.tokenizer),
    )
    lengths = draw_lengths(source, settings, model.text.end_of_text_id, processes=processes)
    if not len(lengths):
        return None
    advice = None
    if drawing.row_tokens:
        set_to = (run.packing.tokens_per_caption,) if run.packing.row_tokens else ()
        advice = advise(
            lengths, row_tokens=drawing.row_tokens, images=drawing.images, groups=drawing.groups, budgets=set_to
        )
    return describe(lengths, model.text.context_length), advice


def show(lengths: CaptionLengths, advice: PackingAdvice | None) -> None:
    """Prints what was measured."""
    cut_to, percentiles = lengths.context_length, f"{lengths.p50}, {lengths.p90}, {lengths.p99}"
    print(f"captions that training draws, {lengths.captions_per_image} for each of {lengths.images:,} images")
    _line("tokens, with start and end: mean", f"{lengths.mean:.1f}")
    _line("half, 90 %, 99 % have at most", percentiles)
    _line(f"padding, if padded to {cut_to}", f"{lengths.padding:.0%}")
    if advice is None:
        print("they cannot be packed: the model's text tower is not causal")
        return
    print(f"packed in rows of {advice.row_tokens}, {advice.groups:,} groups of {advice.captions:,} captions a step")
    _line("spread of a group's tokens", f"{advice.spread:.1%}")
    _line("share of just enough rows filled", f"{advice.fill:.1%}")
    title = f"of {advice.simulated:,} groups"
    print(f"  {'tokens_per_caption':<20}{'rows':>8}{'steps that cut one':>22}{title:>18}")
    for budget in advice.budgets:
        print(
            f"  {budget.tokens_per_caption:<20g}{budget.rows:>8,}{_share(budget.steps_that_cut):>22}"
            f"{budget.groups_that_cut:>18,}"
        )
    print(f"recommended: config.packing.tokens_per_caption={advice.tokens_per_caption:g}")


def as_json(found: tuple[CaptionLengths, PackingAdvice | None] | None) -> dict[str, Any]:
    """The same for a JSON file: the fields of `CaptionLengths` and `PackingAdvice`; None where there is none."""
    lengths, advice = found or (None, None)
    return {
        "captions": lengths and dataclasses.asdict(lengths),
        "packing": advice and dataclasses.asdict(advice),
    }


def _line(title: str, value: str) -> None:
    print(f"  {title:<32}{value:>12}")


def _share(share: float) -> str:
    """A share of steps in words, to two digits."""
    if share > 0.05:
        return f"{share:.0%}"
    return f"1 in {float(f'{1 / share:.2g}'):,.0f}" if share > 1e-9 else "less than 1 in 10^9"
