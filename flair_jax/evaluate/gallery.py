"""The pictures of a segmentation as a page beside them, with what each class takes of each picture in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from flair_jax import pages
from flair_jax.data.sets.segmentation_data import SegmentationData
from flair_jax.evaluate.legend import legend, percent
from flair_jax.evaluate.overlays import PANELS, file_names, read_sheet

PAGE = "index.html"


class _Panel(NamedTuple):
    """One of a file's three pictures: its name, and in per cent of its own width how wide the file is, and where."""

    title: str
    width: float
    left: float


def write_gallery(folder: Path, data: SegmentationData, metrics: dict[str, Any], segment_by: str) -> Path:
    """Writes the page of a folder that has a PNG of `overlays.write_comparison` for each picture.

    Args:
      folder: with the pictures; those that are not there are counted on the page.
      data: whose pictures they are.
      metrics: of the whole set; see `segmentation_metrics`.
      segment_by: how the patches were scored.

    Returns:
      The page.

    Raises:
      FlairError: if Jinja2 is not installed.
      OSError: if the disk cannot be read or written.
    """
    shown = [
        _picture(folder / file, name, data)
        for name, file in zip(data.names, file_names(data.names), strict=True)
        if (folder / file).exists()
    ]
    text = pages.render(
        "segmentation",
        "--save",
        dataset=data.dataset,
        segment_by=segment_by,
        mean_iou=f"{100 * metrics['mean_iou']:.1f}",
        pixel_accuracy=f"{100 * metrics['pixel_accuracy']:.1f}",
        classes=[
            (name, colour, "-" if metrics["iou"][name] is None else f"{100 * metrics['iou'][name]:.1f}")
            for name, colour in zip(data.classes, data.palette, strict=True)
        ],
        pictures=shown,
        missing=len(data.names) - len(shown),
    )
    pages.write(folder / PAGE, text)
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
