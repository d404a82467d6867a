"""The pictures of a segmentation as pages beside them, with what each class takes of each picture in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from flair_jax import pages
from flair_jax.data.sets.segmentation_data import SegmentationData
from flair_jax.evaluate.legend import legend, percent
from flair_jax.evaluate.overlays import PANELS, file_names, read_sheet
from flair_jax.progress import ProgressBar

PAGE = "index.html"  # the first
_ON_A_PAGE = 50  # pictures


class _Panel(NamedTuple):
    """One of a file's three pictures: its name, and in per cent of its own width how wide the file is, and where."""

    title: str
    width: float
    left: float


def write_gallery(folder: Path, data: SegmentationData, metrics: dict[str, Any], segment_by: str) -> Path:
    """Writes the pages of a folder that has a PNG of `overlays.write_comparison` for each picture, 50 on each page.

    The first has the classes besides. Pages of an earlier run that had more are removed.

    Args:
      folder: with the pictures; those that are not there are counted on the pages.
      data: whose pictures they are.
      metrics: of the whole set; see `segmentation_metrics`.
      segment_by: how the patches were scored.

    Returns:
      The first page.

    Raises:
      FlairError: if Jinja2 is not installed.
      OSError: if the disk cannot be read or written.
    """
    there = [
        (name, folder / file)
        for name, file in zip(data.names, file_names(data.names), strict=True)
        if (folder / file).exists()
    ]
    starts = range(0, len(there), _ON_A_PAGE) or [0]
    files = [PAGE, *(f"page-{number}.html" for number in range(2, len(starts) + 1))]
    about: dict[str, Any] = {
        "dataset": data.dataset,
        "segment_by": segment_by,
        "mean_iou": f"{100 * metrics['mean_iou']:.1f}",
        "pixel_accuracy": f"{100 * metrics['pixel_accuracy']:.1f}",
        "classes": [
            (name, colour, "-" if metrics["iou"][name] is None else f"{100 * metrics['iou'][name]:.1f}")
            for name, colour in zip(data.classes, data.palette, strict=True)
        ],
        "shown": f"{len(there):,}",
        "missing": len(data.names) - len(there),
        "files": files,
    }
    numbered = list(enumerate(zip(starts, files, strict=True), start=1))
    with ProgressBar(total=len(there), description="pages", unit="picture") as bar:
        for number, (start, file) in [*numbered[1:], numbered[0]]:  # the first leads to all others
            pictures = [_picture(path, name, data) for name, path in there[start : start + _ON_A_PAGE]]
            pages.write(
                folder / file,
                pages.render("segmentation", "--save", number=number, start=start, pictures=pictures, **about),
            )
            bar.update(len(pictures))
    number = len(files)
    while (former := folder / f"page-{(number := number + 1)}.html").is_file() and pages.is_ours(former):
        former.unlink()
    return folder / PAGE


def _picture(path: Path, name: str, data: SegmentationData) -> dict[str, Any]:
    """What the page says of one file; of one that another release has written, only where it is."""
    picture: dict[str, Any] = {"name": name, "link": pages.link(path.name, Path(PAGE)), "panels": [], "legend": []}
    with path.open("rb") as file:
        sheet = read_sheet(file)
    if sheet is None:
        return picture
    try:
        entries = legend(sheet.areas, data.classes, data.palette)
    except ValueError:  # of another set
        return picture
    (width, height), whole = sheet.panel, sheet.size[0]
    return picture | {
        "panels": [
            _Panel(title, 100 * whole / width, -100 * place * sheet.step / width) for place, title in enumerate(PANELS)
        ],
        "width": width,
        "height": height,
        "size": sheet.size,
        "right": percent(sheet.areas.accuracy),
        "legend": [(each.name, each.colour, percent(each.truth), percent(each.predicted)) for each in entries],
    }
