"""The commands `flair-jax data ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from flair_jax.commands.parser import add_command, new_file, path
from flair_jax.errors import DatasetError

_TARS = (
    "tars as img2dataset writes them: a path or URL (gs://...) with ranges {0000..0575} or wildcards; several joined "
    "by ::"
)


def add(commands: Any) -> None:
    """Adds the command and its subcommands."""
    parser = commands.add_parser(
        "data",
        help="index, check and build training data",
        description="Index, check and build training data: tars as img2dataset writes them, and TFDS data sets.",
    )
    subcommands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_index(subcommands)
    _add_survey(subcommands, "stats", _stats, "counts, lengths of captions and duplicates", "Pictures are not decoded.")
    _add_survey(
        subcommands,
        "check",
        _check,
        "decode every picture and list all damage; exits with 1 if there is any",
        "Each damaged tar and member is printed on a line of its own, before the counts by reason.",
    )
    _add_build(subcommands)
    _add_urls(subcommands)
    _add_attach(subcommands)


def _add_index(commands: Any) -> None:
    parser = add_command(
        commands,
        "index",
        _index,
        "find the samples of tars, so that training can read any of them at once",
        "example:\n"
        "  flair-jax data index 'cc3m/{00000..00331}.tar'\n\n"
        "Training does this itself if it was not done. The index of a tar lies beside it, or in --index-dir; one that\n"
        "fits its tar is kept, so that a stopped command goes on where it was.",
    )
    parser.add_argument("tars", help=_TARS)
    parser.add_argument("--index-dir", metavar="DIR", default="", help="where the indexes are (config.data.index_dir)")
    _add_processes(parser)


def _index(options: argparse.Namespace) -> None:
    from flair_jax.data.tars import TarSource

    source = TarSource(options.tars, index_dir=options.index_dir, processes=options.processes)
    print(f"{len(source):,} samples in {len(source.shards):,} tars")
    if source.damage:
        print(f"{len(source.damage):,} members or tars are damaged or incomplete; `flair-jax data check` lists them")


def _add_survey(
    commands: Any, name: str, run: Callable[[argparse.Namespace], int | None], summary: str, details: str
) -> None:
    parser = add_command(
        commands,
        name,
        run,
        summary,
        f"{details}\n\nexamples:\n"
        f"  flair-jax data {name} 'cc3m/{{00000..00331}}.tar'\n"
        f"  flair-jax data {name} recaptioned/cc3m --data-dir ~/tensorflow_datasets",
    )
    parser.add_argument("data", help=f"{_TARS}; or the name of a prepared TFDS data set")
    parser.add_argument(
        "--data-dir", metavar="DIR", default="~/tensorflow_datasets", help="TFDS's folder (default %(default)s)"
    )
    parser.add_argument("--split", default="train", help="of a TFDS data set (default %(default)s)")
    parser.add_argument("--index-dir", metavar="DIR", default="", help="where the indexes of tars are")
    parser.add_argument("--json", metavar="FILE", type=new_file, help="write the figures as JSON too")
    _add_processes(parser)


def _stats(options: argparse.Namespace) -> None:
    _survey(options, decode=False)


def _check(options: argparse.Namespace) -> int:
    damage = _survey(options, decode=True)
    return 1 if damage else 0


def _survey(options: argparse.Namespace, *, decode: bool) -> Sequence[str]:
    import dataclasses
    import json

    from flair_jax.data import survey
    from flair_jax.data.shards import is_tars
    from flair_jax.data.sources import Source, TfdsSource
    from flair_jax.data.tars import TarSource
    from flair_jax.files import replace_when_complete

    source: Source = (
        TarSource(options.data, index_dir=options.index_dir, processes=options.processes)
        if is_tars(options.data)
        else TfdsSource(options.data, options.data_dir, options.split)
    )
    found = survey.survey(source, decode=decode, processes=options.processes)
    for line in found.damage:
        print(line, file=sys.stderr)
    print(f"samples                     {found.samples:>12,}")
    print(f"with a URL seen before      {found.same_url:>12,}")
    print(f"with a picture seen before  {found.same_picture:>12,}")
    for title, values, bins in (
        ("samples by sentences", found.sentences, survey.SENTENCE_BINS),
        ("sentences by tokens, with start and end; 77 are seen", found.tokens, survey.TOKEN_BINS),
    ):
        print(title)
        for name, count in survey.rows(values, bins):
            print(f"  {name:<26}{count:>12,}")
    print(f"left out                    {len(found.damage):>12,}")
    for reason, count in found.left_out.items():
        print(f"  {reason:<26}{count:>12,}")
    if options.json:
        with replace_when_complete(options.json) as partial:
            partial.write_text(json.dumps(dataclasses.asdict(found), indent=1) + "\n", encoding="utf-8")
    return found.damage


def _add_build(commands: Any) -> None:
    parser = add_command(
        commands,
        "build",
        _build,
        "turn tars into a TFDS data set in array_record, through Apache Beam",
        "examples:\n"
        "  flair-jax data build cc3m 'cc3m/{00000..00331}.tar' --data-dir ~/tensorflow_datasets --shorter-side 256\n"
        "  flair-jax data build cc12m 'gs://bucket/cc12m/{00000..01242}.tar' --data-dir gs://bucket/tfds \\\n"
        "      --runner=DataflowRunner --project=... --region=... --temp_location=gs://bucket/tmp\n\n"
        "Samples keep the order of the tars. Options that are not listed go to Apache Beam; without any, the cores\n"
        "of this machine are used. Needs the extra `beam`. Train on it with --config.data.name=recaptioned/NAME.",
    )
    parser.add_argument("name", metavar="NAME", help="cc3m, cc12m, yfcc15m, pixelprose, or custom for any other")
    parser.add_argument("tars", help=_TARS)
    parser.add_argument(
        "--data-dir", metavar="DIR", default="~/tensorflow_datasets", help="TFDS's folder (default %(default)s)"
    )
    parser.add_argument(
        "--shorter-side",
        metavar="PIXELS",
        type=int,
        default=0,
        help="re-encode larger pictures as JPEG with this shorter side; 0 keeps them as they are (default %(default)s)",
    )
    parser.set_defaults(takes_more=True, words=[])


def _build(options: argparse.Namespace) -> None:
    from flair_jax.data.recaptioned_builder import build
    from flair_jax.data.shards import expand_shards
    from flair_jax.data.sources import TfdsSource
    from flair_jax.files import expand

    if options.shorter_side < 0:
        raise DatasetError(f"--shorter-side {options.shorter_side} must not be negative")
    folder = options.data_dir if "://" in options.data_dir else str(expand(options.data_dir))
    left_out = build(
        options.name,
        expand_shards(options.tars),
        folder,
        shorter_side=options.shorter_side,
        pipeline_options=options.words,
    )
    samples = len(TfdsSource(f"recaptioned/{options.name}", folder, "train"))
    print(f"{samples:,} samples in {folder}/recaptioned/{options.name}")
    for reason, count in sorted(left_out.items()):
        print(f"left out: {reason:<30}{count:>12,}")


def _add_urls(commands: Any) -> None:
    from flair_jax.data.captions import CAPTION_LISTS

    parser = add_command(
        commands,
        "urls",
        _urls,
        "turn a caption table into the table that img2dataset downloads from",
        "example:\n"
        "  flair-jax data urls cc3m_recaption.csv cc3m.parquet\n"
        "  img2dataset --url_list cc3m.parquet --input_format parquet --url_col url --output_format webdataset \\\n"
        f"      --save_additional_columns '{list(CAPTION_LISTS)}' \\\n"
        "      --output_folder cc3m --image_size 256 --resize_mode keep_ratio --resize_only_if_bigger True",
    )
    parser.add_argument("table", type=path, help="CSV or Parquet with `Image Path` and the caption columns")
    parser.add_argument("output", type=new_file, help=".parquet file to write")


def _urls(options: argparse.Namespace) -> None:
    from flair_jax.data.caption_tables import write_url_table

    print(f"{options.output}: {write_url_table(options.table, options.output):,} rows")


def _add_attach(commands: Any) -> None:
    parser = add_command(
        commands,
        "attach",
        _attach,
        "put a table's captions into tars of pictures that are already there",
        "example:\n"
        "  flair-jax data attach cc3m_recaption.csv 'cc3m/{00000..00331}.tar' --output cc3m_recap\n\n"
        "A row belongs to the sample with its URL, or else with its file name as key. Samples without captions are\n"
        "left out. Tars that are in the output are kept, so that a stopped command goes on where it was.",
    )
    parser.add_argument("table", type=path, help="CSV or Parquet with `Image Path` and the caption columns")
    parser.add_argument("tars", help=_TARS)
    parser.add_argument("--output", metavar="DIR", type=path, required=True, help="folder of the new tars")


def _attach(options: argparse.Namespace) -> None:
    from flair_jax.data.caption_tables import attach
    from flair_jax.data.shards import expand_shards

    for name, count in attach(options.table, expand_shards(options.tars), options.output).items():
        print(f"{name:<22}{count:>12,}")


def _add_processes(parser: Any) -> None:
    parser.add_argument(
        "--processes", metavar="N", type=int, default=0, help="how many read at once (default: one a core)"
    )
