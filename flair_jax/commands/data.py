"""The commands `flair-jax data ...`."""

from __future__ import annotations

import argparse
import json
from collections import Counter

from flair_jax.commands import data_survey
from flair_jax.commands.data_parts import TARS, add_processes, print_count, print_left_out, print_names
from flair_jax.commands.parser import Commands, add_command, new_file, new_folder, path
from flair_jax.errors import DatasetError, plural, printable

_TABLE = "CSV, TSV or JSON lines (also .gz), or Parquet, with `Image Path` and the caption columns"


def add(commands: Commands) -> None:
    """Adds the command and its subcommands."""
    parser = commands.add_parser(
        "data",
        help="index, check and build training data",
        description="Index, check and build training data: tars as img2dataset writes them, and TFDS data sets.",
    )
    subcommands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_index(subcommands)
    data_survey.add(subcommands)
    _add_build(subcommands)
    _add_urls(subcommands)
    _add_attach(subcommands)


def _add_index(commands: Commands) -> None:
    parser = add_command(
        commands,
        "index",
        _index,
        "find the samples of tars, so that training can read any of them at once",
        "example:\n"
        "  flair-jax data index 'cc3m/{00000..00331}.tar'\n\n"
        "Training does this itself if it was not done. The index of a tar lies beside it, or in --index-dir; one that\n"
        "fits its tar is kept, so that a stopped command resumes where it was.",
    )
    parser.add_argument("tars", metavar="TARS", help=TARS)
    parser.add_argument("--index-dir", metavar="DIR", default="", help="where the indexes are (config.data.index_dir)")
    add_processes(parser)


def _index(options: argparse.Namespace) -> None:
    from flair_jax.data.tars import TarSource

    source = TarSource(options.tars, index_dir=options.index_dir, processes=options.processes)
    source.require_samples()
    print(f"{plural(len(source), 'sample')} in {plural(len(source.shards), 'tar')}")
    print_count("members beside samples, not read", source.beside)
    print_left_out(Counter(harm.reason for harm in source.damage))
    if source.damage:
        print("`flair-jax data check` names each")


def _add_build(commands: Commands) -> None:
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
    parser.add_argument("tars", metavar="TARS", help=TARS)
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
    parser.set_defaults(takes_more="", words=[])


def _build(options: argparse.Namespace) -> None:
    from flair_jax.bucket_reads import is_url
    from flair_jax.data.build.recaptioned import build
    from flair_jax.data.shards import expand_shards
    from flair_jax.data.sources import TfdsSource
    from flair_jax.files import expand

    if options.shorter_side < 0:
        raise DatasetError(f"--shorter-side {options.shorter_side} must not be negative")
    folder = options.data_dir if is_url(options.data_dir) else str(expand(options.data_dir))
    left_out, beside = build(
        options.name,
        expand_shards(options.tars),
        folder,
        shorter_side=options.shorter_side,
        pipeline_options=options.words,
    )
    samples = len(TfdsSource(f"recaptioned/{options.name}", folder, "train"))
    print(printable(f"{plural(samples, 'sample')} in {folder}/recaptioned/{options.name}"))
    print_count("members beside samples, not read", beside)
    print_left_out(left_out)


def _add_urls(commands: Commands) -> None:
    from flair_jax.data.captions import CAPTION_LISTS

    parser = add_command(
        commands,
        "urls",
        _urls,
        "turn a caption table into the table that img2dataset downloads from",
        "example:\n"
        "  flair-jax data urls cc3m_recaption.csv cc3m.parquet\n"
        "  img2dataset --url_list cc3m.parquet --input_format parquet --url_col url --output_format webdataset \\\n"
        f"      --save_additional_columns '{json.dumps(list(CAPTION_LISTS))}' \\\n"
        "      --output_folder cc3m --image_size 256 --resize_mode keep_ratio --resize_only_if_bigger True",
    )
    parser.add_argument("table", metavar="TABLE", type=path, help=_TABLE)
    parser.add_argument("output", metavar="OUTPUT", type=new_file, help=".parquet file to write")


def _urls(options: argparse.Namespace) -> None:
    from flair_jax.data.build.caption_tables import write_url_table

    rows, repeated, left_out = write_url_table(options.table, options.output)
    print_names(map(str, left_out.first), left_out.reasons.total())
    print(printable(f"{options.output}: {rows:,} rows"))
    print_count("with an address seen before", repeated)
    print_left_out(left_out.reasons)


def _add_attach(commands: Commands) -> None:
    parser = add_command(
        commands,
        "attach",
        _attach,
        "put a table's captions into tars of pictures that are already there",
        "example:\n"
        "  flair-jax data attach cc3m_recaption.csv 'cc3m/{00000..00331}.tar' --output cc3m_recap\n\n"
        "A row belongs to the sample with its URL, or else with its file name as key. Samples without captions are\n"
        "left out, and counted by reason; all else of a sample is kept. Tars that are in the output are kept, so\n"
        "that a stopped command resumes where it was.",
    )
    parser.add_argument("table", metavar="TABLE", type=path, help=_TABLE)
    parser.add_argument("tars", metavar="TARS", help=TARS)
    parser.add_argument("--output", metavar="DIR", type=new_folder, required=True, help="folder of the new tars")


def _attach(options: argparse.Namespace) -> None:
    from flair_jax.data.build.attach import attach
    from flair_jax.data.shards import expand_shards

    counts, left_out = attach(options.table, expand_shards(options.tars), options.output)
    print_names(map(str, left_out.first), left_out.reasons.total())
    for name, count in counts.items():
        print_count(name, count)
    print_left_out(left_out.reasons)
