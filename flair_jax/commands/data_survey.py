"""`flair-jax data stats` and `flair-jax data check`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from flair_jax.commands import data_lengths
from flair_jax.commands.data_parts import TARS, add_processes, print_count, print_left_out, print_names
from flair_jax.commands.parser import Commands, add_command, new_file

if TYPE_CHECKING:
    from flair_jax.data.sources import Source


def add(subcommands: Commands) -> None:
    """Adds both commands."""
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
    parser.add_argument(
        "data",
        metavar="DATA",
        help=f"{TARS}; or the name of a prepared TFDS data set, or of pictures with an annotation file (docs/data.md)",
    )
    parser.add_argument(
        "--data-dir",
        metavar="DIR",
        default="~/tensorflow_datasets",
        help="TFDS's folder, or that of the pictures (default %(default)s)",
    )
    parser.add_argument("--split", default="train", help="of a TFDS data set (default %(default)s)")
    parser.add_argument("--index-dir", metavar="DIR", default="", help="where the indexes of tars are")
    parser.add_argument("--json", metavar="FILE", type=new_file, help="write the figures as JSON too")
    add_processes(parser)
    return parser


def _stats(options: argparse.Namespace) -> None:
    _survey(options, decode=False, drawing=data_lengths.read_drawing(options))


def _check(options: argparse.Namespace) -> int:
    return 1 if _survey(options, decode=True) else 0


def _open(options: argparse.Namespace) -> Source:
    from flair_jax.data.sets.pictures import PictureSource, is_pictures
    from flair_jax.data.shards import is_tars
    from flair_jax.data.sources import TfdsSource
    from flair_jax.data.tars import TarSource

    if is_tars(options.data):
        return TarSource(options.data, index_dir=options.index_dir, processes=options.processes)
    if is_pictures(options.data, options.data_dir):
        return PictureSource(options.data, options.data_dir)
    return TfdsSource(options.data, options.data_dir, options.split)


def _survey(options: argparse.Namespace, *, decode: bool, drawing: data_lengths.Drawing | None = None) -> int:
    """Prints the figures, and returns how many samples, members or tars are left out."""
    import dataclasses

    from flair_jax.bucket_reads import filesystem, is_url
    from flair_jax.data.build import survey
    from flair_jax.data.tars import TarSource
    from flair_jax.files import keep_inputs, replace_when_complete

    source = _open(options)
    if options.json and isinstance(source, TarSource):
        keep_inputs(options.json, [filesystem(shard)[1] for shard in source.shards if not is_url(shard)])
    found = survey.survey(source, decode=decode, processes=options.processes)
    captions = data_lengths.measure(source, drawing, options.processes) if drawing else None
    print_names(found.damage, len(found.damage), "--json FILE names all")
    print_count("samples", found.samples)
    print_count("with a URL seen before", found.same_url)
    print_count("with a picture seen before", found.same_picture)
    if decode:
        print_count("with more than 8 bits a channel", found.too_deep)
    for title, values, bins in (
        ("samples by sentences", found.sentences, survey.SENTENCE_BINS),
        ("sentences by tokens, with start and end", found.tokens, survey.TOKEN_BINS),
    ):
        print(title)
        for name, count in survey.rows(values, bins):
            print(f"  {name:<32}{count:>12,}")
    print_count("members beside samples, not read", found.beside)
    if found.empty_captions:
        print_count("empty captions, passed over", found.empty_captions)
    print_left_out({**found.passed_over, **found.left_out})
    if captions:
        data_lengths.show(*captions)
    if options.json:
        figures = dataclasses.asdict(found) | (data_lengths.as_json(captions) if drawing else {})
        with replace_when_complete(options.json) as partial:
            partial.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return sum(found.left_out.values())
