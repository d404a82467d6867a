"""TFDS builders of recaptioned sets and PixelProse, from the tars that img2dataset made, through Apache Beam.

A new set is an entry of `SETS`.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import fsspec
import tensorflow_datasets as tfds
from PIL import Image

from flair_jax.data.captions import sentences_of
from flair_jax.data.damage import Damage
from flair_jax.data.image import open_training_picture
from flair_jax.data.shards import require_shards
from flair_jax.data.tar_index import index_shard
from flair_jax.data.tars import read_shard
from flair_jax.errors import ConfigError, DatasetError, FlairError, ImageError
from flair_jax.packages import how_to_install
from flair_jax.progress import ProgressBar

# The sets that FLAIR was trained on; their tars come from the user.
SETS = {
    "cc3m": "CC3M with the synthetic captions of DreamLIP.",
    "cc12m": "CC12M with the synthetic captions of DreamLIP.",
    "yfcc15m": "YFCC15M with the synthetic captions of DreamLIP.",
    "pixelprose": "PixelProse: one long caption a picture.",
    "custom": "Any pictures and captions in tars like those of img2dataset.",
}
_JPEG_QUALITY = 95
# Damaged members that the metadata names, beside the counts of all.
_MOST_NAMED = 1000
# Keys put samples in the order of the tars: the number of the tar times this, plus the place in it.
_MOST_IN_A_TAR = 10**8


@dataclasses.dataclass
class RecaptionedConfig(tfds.core.BuilderConfig):
    """Where the tars are, and how pictures are stored.

    Attributes:
      shards: paths or URLs of the tars.
      shorter_side: larger pictures are re-encoded as JPEG with this shorter side in pixels; 0: kept as they are.
      read_tars: folder that gets a file for each tar that was read to its end, with the number of its samples.
    """

    shards: Sequence[str] = ()
    shorter_side: int = 0
    read_tars: str = ""


class Recaptioned(tfds.core.BeamBasedBuilder):
    """Pictures and sentences about them, in the order of the tars that they come from.

    Features: `image`, encoded; `captions`, sentences, split when the set was built; `key`, tar and member; `url`. The
    metadata counts what was left out, by reason, and the members beside the samples that are not read.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First."}  # noqa: RUF012

    def _info(self) -> Any:
        text = tfds.features.Text()
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3)),
                    "captions": tfds.features.Sequence(text),
                    "key": text,
                    "url": text,
                }
            ),
            metadata=tfds.core.BeamMetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: Any, pipeline: Any) -> dict[str, Any]:
        import apache_beam as beam
        from apache_beam.transforms import combiners

        del dl_manager
        config = self.builder_config
        read = (
            pipeline
            | "tars" >> beam.Create(list(enumerate(map(os.fsencode, config.shards))))  # which need not be UTF-8
            | "spread" >> beam.Reshuffle()
            | "read" >> beam.FlatMap(_read, config.shorter_side, config.read_tars)
        )
        damage = read | "damage" >> beam.Filter(lambda each: isinstance(each, Damage))
        self.info.metadata["left_out"] = (
            damage
            | "reasons" >> beam.Map(lambda harm: harm.reason)
            | "count" >> combiners.Count.PerElement()
            | "together" >> combiners.ToDict()
        )
        self.info.metadata["left_out_members"] = (
            damage | "names" >> beam.Map(str) | "first" >> combiners.Top.Smallest(_MOST_NAMED)
        )
        self.info.metadata["beside"] = (
            read | "besides" >> beam.Filter(lambda each: isinstance(each, int)) | "sum" >> beam.CombineGlobally(sum)
        )
        return {"train": read | "samples" >> beam.Filter(lambda each: isinstance(each, tuple))}

    def _download_and_prepare(self, *arguments: Any, **options: Any) -> None:
        """TFDS's; what it wrote is discarded, as after any error, unless it is all that was read.

        Apache Beam has lost samples without a word, in processes of its own on one busy machine.
        """
        super()._download_and_prepare(*arguments, **options)
        files, folder = fsspec.core.url_to_fs(self.builder_config.read_tars)
        files.invalidate_cache()
        counts = [int(files.cat_file(path)) for path in files.ls(folder, detail=False)]
        written, tars = self.info.splits["train"].num_examples, len(self.builder_config.shards)
        if len(counts) != tars or sum(counts) != written:
            raise DatasetError(
                f"Apache Beam's runner lost data: {len(counts):,} of {tars:,} tars were read, with {sum(counts):,} "
                f"samples, and {written:,} samples were written. Nothing is kept; build again, on one machine without "
                "options of Beam"
            )

    def _generate_examples(self) -> None:
        """Nothing: the samples of all splits are made in one pass, above."""


def _read(
    shard: tuple[int, bytes], shorter_side: int, read_tars: str
) -> Iterator[tuple[int, dict[str, Any]] | Damage | int]:
    """The samples of a tar, its damage, and how many members stand beside the samples."""
    tar, path = shard[0], os.fsdecode(shard[1])
    index = index_shard(path)
    count = 0
    yield index.beside
    yield from index.damage
    for number, name, data, document in read_shard(path, index):
        try:
            image = _stored(data, shorter_side)
        except ImageError as error:
            yield Damage(path, name, error.kind)
            continue
        url = document.get("url")
        example = {"image": io.BytesIO(image), "captions": sentences_of(document), "key": _storable(f"{path}: {name}")}
        count += 1
        yield tar * _MOST_IN_A_TAR + number, {**example, "url": _storable(url) if isinstance(url, str) else ""}
    with fsspec.open(f"{read_tars}/{tar}", "wb") as file:
        file.write(b"%d" % count)


def _storable(text: str) -> str:
    """The text with lone surrogates escaped, which UTF-8 cannot encode: names and URLs may hold any bytes."""
    return text.encode("utf-8", "backslashreplace").decode()


@contextlib.contextmanager
def _progress_bar(read_tars: str, count: int) -> Iterator[None]:
    """Counts the files that workers leave, because Beam's runners report nothing before they end."""
    files, folder = fsspec.core.url_to_fs(read_tars)

    def clear() -> None:
        if files.exists(folder):
            files.rm(folder, recursive=True)

    def update(bar: ProgressBar) -> None:
        files.invalidate_cache()
        bar.update(len(files.ls(folder, detail=False)) - bar.n if files.exists(folder) else 0)

    def watch() -> None:
        with ProgressBar(total=count, description="read", unit="tar") as bar:
            while not finished.wait(1.0):
                update(bar)
            update(bar)

    clear()
    files.makedirs(folder, exist_ok=True)
    finished = threading.Event()
    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
        clear()


def _stored(data: bytes, shorter_side: int) -> bytes:
    picture = open_training_picture(data)
    width, height = picture.size
    scale = shorter_side / min(width, height)
    if not shorter_side or scale >= 1:
        return data
    stream = io.BytesIO()
    resized = picture.resize((round(width * scale), round(height * scale)), Image.Resampling.BICUBIC)
    resized.save(stream, "jpeg", quality=_JPEG_QUALITY)
    return stream.getvalue()


def _check_options(words: Sequence[str]) -> None:
    """Raises ConfigError for options unknown to Apache Beam, which would only log and discard them."""
    from apache_beam.options.pipeline_options import PipelineOptions

    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for kind in PipelineOptions.__subclasses__():
        kind._add_argparse_args(parser)
    _, unknown = parser.parse_known_args(list(words))
    if unknown:
        raise ConfigError(
            f"{unknown[0]}: neither an option of this command nor of Apache Beam; several tars are one pattern in "
            "quotes, such as '{00000..00331}.tar'"
        )


def build(
    name: str,
    shards: Sequence[str],
    data_dir: str,
    *,
    shorter_side: int = 0,
    pipeline_options: Sequence[str] = (),
) -> tuple[dict[str, int], int]:
    """Builds a set into `data_dir`/recaptioned/NAME, unless it is there.

    A build that was stopped starts over from the tars, and gives the same data.

    Args:
      name: of `SETS`.
      shards: paths or URLs of the tars, which all workers can read.
      data_dir: TFDS's folder or URL.
      shorter_side: see `RecaptionedConfig`.
      pipeline_options: Apache Beam's, such as "--runner=DataflowRunner"; by default in this process.

    Returns:
      How many members were left out, by reason; and how many stand beside the samples and are not read.

    Raises:
      FlairError: if Apache Beam is missing.
      ConfigError: if Apache Beam does not know an option.
      DatasetError: if the name is unknown, a tar is missing, none holds a usable sample, or samples were lost.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError:
        raise FlairError(f"building needs Beam, in an environment of its own: {how_to_install('beam')}") from None
    if name not in SETS:
        raise DatasetError(f"no set {name}; there are {', '.join(SETS)}")
    _check_options(pipeline_options)
    require_shards(shards)
    read_tars = f"{data_dir}/recaptioned/.{name}.read"
    config = RecaptionedConfig(
        name=name, description=SETS[name], shards=list(shards), shorter_side=shorter_side, read_tars=read_tars
    )
    builder = Recaptioned(data_dir=data_dir, config=config, file_format="array_record")
    options = pipeline_options or ("--direct_running_mode=in_memory",)
    try:
        with _progress_bar(read_tars, len(shards)):
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(beam_options=PipelineOptions(list(options)))
            )
    except Exception as error:  # of the runner's kind
        if "number of generated examples is 0" not in str(error):
            raise
        raise DatasetError("the tars hold no usable sample; `flair-jax data check` names each reason") from None
    return dict(builder.info.metadata["left_out"]), int(builder.info.metadata.get("beside", 0))
