"""Readers of the retrieval sets' annotation files. Imports no JAX."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from flair_jax.data.captions import rejoin
from flair_jax.data.sets.records import (
    CAPTIONS,
    captions,
    field,
    json_lines,
    own_captions,
    read_json,
    require_words,
    rows,
)
from flair_jax.data.sets.retrieval_data import Pair
from flair_jax.errors import DatasetError
from flair_jax.files import absolute


def read_coco(folder: Path, annotations: Path, *, images: str) -> Iterator[Pair]:
    """Pairs of COCO's caption files; `images` is the folder of the pictures in `images/`."""
    data = read_json(annotations)
    files = {}
    for image, where in rows(field(data, "images", list, str(annotations)), annotations):
        files[field(image, "id", int, where)] = folder / "images" / images / field(image, "file_name", str, where)
    for caption, where in rows(field(data, "annotations", list, str(annotations)), annotations):
        image_id = field(caption, "image_id", int, where)
        if image_id not in files:
            raise DatasetError(f"{where}: image_id {image_id} is not among the images")
        yield files[image_id], field(caption, "caption", str, where)


def read_flickr(folder: Path, annotations: Path) -> Iterator[Pair]:
    """Pairs of the files of ALBEF and BLIP, whose paths start at the folder's parent."""
    for record, where in rows(read_json(annotations), annotations):
        image = field(record, "image", str, where)
        path = absolute(folder).parent / image
        if not path.exists():  # the folder was renamed: the pictures stand in it all the same
            path = folder / Path(image).name
        for caption in captions(record, "caption", where):
            yield path, caption


def read_annotated(folder: Path, annotations: Path, *, images: str) -> Iterator[Pair]:
    """Pairs of the FLAIR release's files, whose paths start at the folder `images`."""
    for record, where in rows(field(read_json(annotations), "annotations", list, str(annotations)), annotations):
        yield folder / images / field(record, "image", str, where), field(record, "caption", str, where)


def read_dci(folder: Path, splits: Path) -> Iterator[Pair]:
    """Pairs of DCI, whose captions are joined as the FLAIR release does; all splits."""
    for root, record, path in _dci_records(folder, splits, "annotations"):
        short, extra = (field(record, name, str, str(path)) for name in ("short_caption", "extra_caption"))
        yield root / "photos" / field(record, "image", str, str(path)), rejoin(f"{short}\n{extra}")


def read_dci_summaries(folder: Path, splits: Path) -> Iterator[Pair]:
    """Pairs of DCI's pictures with their summaries, of at most 77 tokens by a language model; all splits.

    `complete/` has each file of `annotations/` with `summaries` by part of the picture, of which `base` is the whole, a
    text or a list: facebookresearch/DCI, dataset/collate_dataset.py and dataset/dense_image.py.
    """
    for root, record, path in _dci_records(folder, splits, "complete"):
        picture = root / "photos" / field(record, "image", str, str(path))
        for caption in captions(field(record, "summaries", dict, str(path)), "base", f"{path}: summaries"):
            yield picture, caption


def _dci_records(folder: Path, splits: Path, kind: str) -> Iterator[tuple[Path, Any, Path]]:
    root = folder / "densely_captioned_images"
    for split, files in field({"splits": read_json(splits)}, "splits", dict, str(splits)).items():
        for file, where in rows(files, splits):
            if not isinstance(file, str):
                raise DatasetError(f"{where} of split {split}: expected a file name")
            yield root, read_json(root / kind / file), root / kind / file


def read_sharegpt4v(folder: Path, annotations: Path, *, limit: int) -> Iterator[Pair]:
    """Pairs of the first `limit` records, whose captions are joined as the FLAIR release does."""
    records = read_json(annotations)
    for record, where in list(rows(records, annotations))[:limit]:
        answer = field(field(record, "conversations", list, where), 1, dict, f"{where}: conversations")
        image = field(record, "image", str, where).replace("/images", "")
        yield folder / image, rejoin(field(answer, "value", str, f"{where}: conversations[1]"))


def read_folder(folder: Path, lines: Path, *, may_be_empty: bool = False) -> Iterator[Pair]:
    """Pairs of a user's own JSON lines, of `image` and `caption` or `captions`; paths start at the folder.

    Args:
      folder: the set's.
      lines: the file.
      may_be_empty: whether captions may; training passes over these.
    """
    for record, where in json_lines(lines):
        texts = own_captions(record, where)
        if not may_be_empty:
            require_words(texts, where)
        picture = folder / field(record, "image", str, where)
        for text in texts:
            yield picture, text


def has_captions(lines: Path) -> bool:
    """Whether the first of a file's JSON lines has captions, or is no JSON, which `read_folder` says."""
    try:
        record, _ = next(json_lines(lines), ({}, ""))
    except DatasetError:
        return True
    return isinstance(record, dict) and not set(CAPTIONS).isdisjoint(record)


def read_karpathy(folder: Path, annotations: Path, *, split: str, places: tuple[str, ...]) -> Iterator[Pair]:
    """Pairs of a split of Karpathy's files, `raw` of each of an image's `sentences`.

    `filepath`, which only COCO's have, is the folder of `filename`: train2014 or val2014. See the example in
    ruotianluo/ImageCaptioning.pytorch, data/README.md, and the files themselves, cs.stanford.edu/people/karpathy/
    deepimagesent/caption_datasets.zip.

    Args:
      folder: the set's.
      annotations: the file.
      split: test or val.
      places: folders that may hold the pictures; the first in which the first picture is counts for all.
    """
    root = None
    for image, where in rows(field(read_json(annotations), "images", list, str(annotations)), annotations):
        if field(image, "split", str, where) != split:
            continue
        name = Path(field({"filepath": "", **image}, "filepath", str, where), field(image, "filename", str, where))
        found = (folder / place for place in places if (folder / place / name).exists())
        root = root or next(found, folder / places[0])
        for sentence, _ in rows(field(image, "sentences", list, where), annotations):
            yield root / name, field(sentence, "raw", str, where)


def read_docci(folder: Path, lines: Path, *, split: str) -> Iterator[Pair]:
    """Pairs of DOCCI's whole descriptions: `image_file` in images/, `description`, `split`; google.github.io/docci."""
    for record, where in json_lines(lines):
        if field(record, "split", str, where) == split:
            image = field(record, "image_file", str, where)
            yield folder / "images" / image, field(record, "description", str, where)


def read_iiw(_: Path, lines: Path, *, parts: Mapping[str, str]) -> Iterator[Pair]:
    """Pairs of ImageInWords' whole descriptions by people, `IIW`.

    The picture is `image/key` or `image`, without an ending in some files: google/imageinwords, datasets/*/README.md.

    Args:
      lines: the file of one of the parts; the others are beside it, and none may be missing.
      parts: pattern of each part's folder, beside each other -> the folder of its pictures, beside these too.
    """
    folder = lines.parent.parent
    for pattern, images in parts.items():
        for part in sorted(folder.glob(f"{pattern}/data.jsonl"))[:1]:
            for record, where in json_lines(part):
                key = "image/key" if isinstance(record, dict) and "image/key" in record else "image"
                name = field(record, key, str, where)
                yield folder / images / (name if Path(name).suffix else f"{name}.jpg"), field(record, "IIW", str, where)
