"""The commands `flair-jax data ...`."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from flair_jax.commands import data_lengths
from flair_jax.commands.parser import Commands, add_command, new_file, new_folder, path, positive
from flair_jax.data.damage import is_harmless
from flair_jax.errors import DatasetError, printable

# Names of what is left out.
_MOST_PRINTED = 1000

_TARS = (
    "tars as img2dataset writes them: a path or URL (gs://...) with ranges {0000..0575} or wildcards; several joined "
    "by ::"
)
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
    stats = _add_survey(
        subcommands,
        "stats",
        _stats,
        "counts, duplicates, lengths of captions, and how many rows they need when packed",
        "Pictures are not decoded. Captions are drawn for 20,000 images, or all if they are fewer, and packed; how\n"
        "often a step cuts one is calculated from that (docs/packing.md).",
    )
    data_lengths.add_options(stats)
    _add_survey(
        subcommands,
        "check",
        _check,
        "decode every picture and list all damage; exits with 1 if there is any",
        "Each damaged tar and member is printed on a line of its own, up to 1,000, before the counts by reason; all\n"
        "are in the file of --json. What nobody misses, such as folders in a tar, is named too, and is no failure.",
    )
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
    parser.add_argument("tars", help=_TARS)
    parser.add_argument("--index-dir", metavar="DIR", default="", help="where the indexes are (config.data.index_dir)")
    _add_processes(parser)


def _index(options: argparse.Namespace) -> None:
    from flair_jax.data.tars import TarSource

    source = TarSource(options.tars, index_dir=options.index_dir, processes=options.processes)
    source.require_samples()
    print(f"{len(source):,} samples in {len(source.shards):,} tars")
    _print_count("members beside samples, not read", source.beside)
    _print_left_out(Counter(harm.reason for harm in source.damage))
    if source.damage:
        print("`flair-jax data check` names each")


def _add_survey(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int | None], summary: str, details: str
) -> argparse.ArgumentParser:
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
    return parser


def _stats(options: argparse.Namespace) -> None:
    _survey(options, decode=False, drawing=data_lengths.read_drawing(options))


def _check(options: argparse.Namespace) -> int:
    return 1 if _survey(options, decode=True) else 0


def _survey(options: argparse.Namespace, *, decode: bool, drawing: data_lengths.Drawing | None = None) -> int:
    """Prints the figures, and returns how many samples, members or tars are left out."""
    import dataclasses

    from flair_jax.bucket_reads import filesystem, is_url
    from flair_jax.data.build import survey
    from flair_jax.data.shards import is_tars
    from flair_jax.data.sources import Source, TfdsSource
    from flair_jax.data.tars import TarSource
    from flair_jax.files import keep_inputs, replace_when_complete

    source: Source = (
        TarSource(options.data, index_dir=options.index_dir, processes=options.processes)
        if is_tars(options.data)
        else TfdsSource(options.data, options.data_dir, options.split)
    )
    if options.json and isinstance(source, TarSource):
        keep_inputs(options.json, [filesystem(shard)[1] for shard in source.shards if not is_url(shard)])
    found = survey.survey(source, decode=decode, processes=options.processes)
    captions = data_lengths.measure(source, drawing, options.processes) if drawing else None
    _print_names(found.damage, len(found.damage), "--json FILE names all")
    _print_count("samples", found.samples)
    _print_count("with a URL seen before", found.same_url)
    _print_count("with a picture seen before", found.same_picture)
    if decode:
        _print_count("with more than 8 bits a channel", found.too_deep)
    for title, values, bins in (
        ("samples by sentences", found.sentences, survey.SENTENCE_BINS),
        ("sentences by tokens, with start and end; 77 are seen", found.tokens, survey.TOKEN_BINS),
    ):
        print(title)
        for name, count in survey.rows(values, bins):
            print(f"  {name:<32}{count:>12,}")
    _print_count("members beside samples, not read", found.beside)
    _print_left_out({**found.passed_over, **found.left_out})
    if captions:
        data_lengths.show(*captions)
    if options.json:
        figures = dataclasses.asdict(found) | (data_lengths.as_json(captions) if drawing else {})
        with replace_when_complete(options.json) as partial:
            partial.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return sum(found.left_out.values())


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
    print(printable(f"{samples:,} samples in {folder}/recaptioned/{options.name}"))
    _print_count("members beside samples, not read", beside)
    _print_left_out(left_out)


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
    parser.add_argument("table", type=path, help=_TABLE)
    parser.add_argument("output", type=new_file, help=".parquet file to write")


def _urls(options: argparse.Namespace) -> None:
    from flair_jax.data.build.caption_tables import write_url_table

    rows, repeated, left_out = write_url_table(options.table, options.output)
    _print_names(map(str, left_out.first), left_out.reasons.total())
    print(printable(f"{options.output}: {rows:,} rows"))
    _print_count("with an address seen before", repeated)
    _print_left_out(left_out.reasons)


def _add_attach(commands: Commands) -> None:
    parser = add_command(
        commands,
        "attach",
        _attach,
        "put a table's captions into tars of pictures that are already there",
        "example:\n"
        "  flair-jax data attach cc3m_recaption.csv 'cc3m/{00000..00331}.tar' --output cc3m_recap\n\n"
        "A row belongs to the sample with its URL, or else with its file name as key. Samples without captions are\n"
        "left out, and counted by reason; all else of a sample is kept. Tars that are in the\n"
        "output are kept, so that a stopped command resumes where it was.",
    )
    parser.add_argument("table", type=path, help=_TABLE)
    parser.add_argument("tars", help=_TARS)
    parser.add_argument("--output", metavar="DIR", type=new_folder, required=True, help="folder of the new tars")


def _attach(options: argparse.Namespace) -> None:
    from flair_jax.data.build.attach import attach
    from flair_jax.data.shards import expand_shards

    counts, left_out = attach(options.table, expand_shards(options.tars), options.output)
    _print_names(map(str, left_out.first), left_out.reasons.total())
    for name, count in counts.items():
        _print_count(name, count)
    _print_left_out(left_out.reasons)


def _print_names(names: Iterable[str], total: int, advice: str = "") -> None:
    """Prints the names of what is left out, as many as anyone would read."""
    shown = list(itertools.islice(names, _MOST_PRINTED))
    for name in shown:
        print(name, file=sys.stderr)
    if total > len(shown):
        print(f"... and {total - len(shown):,} more{f'; {advice}' if advice else ''}", file=sys.stderr)


def _print_left_out(reasons: Mapping[str, int]) -> None:
    """Prints counts by reason; harmless omissions are listed separately."""
    passed_over = {reason: count for reason, count in reasons.items() if is_harmless(reason)}
    if passed_over:
        _print_reasons("passed over", passed_over)
    _print_reasons("left out", {reason: count for reason, count in reasons.items() if not is_harmless(reason)})


def _print_count(title: str, count: int) -> None:
    print(f"{title:<34}{count:>12,}")


def _print_reasons(title: str, reasons: Mapping[str, int]) -> None:
    """A line with the total, and one for each reason."""
    _print_count(title, sum(reasons.values()))
    for reason, count in reasons.items():
        print(f"  {printable(reason)}: {count:,}")


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--processes", metavar="N", type=positive, default=0, help="how many read at once (default: one a core)"
    )
