"""Legends of segmentations, by cases counted by hand, and the pictures and the page that have them."""

import dataclasses
import errno
import json
import shutil
import sys

import numpy as np
import pytest
from parsed import parse
from PIL import Image, PngImagePlugin

from flair_jax import pages
from flair_jax.data.sets.segmentation_data import IGNORED, SegmentationData
from flair_jax.errors import ConfigError, FlairError
from flair_jax.evaluate import gallery as evaluate_gallery
from flair_jax.evaluate import segmentation_task
from flair_jax.evaluate.gallery import write_gallery
from flair_jax.evaluate.legend import Areas, Entry, legend, measure, percent
from flair_jax.evaluate.overlays import file_names, read_sheet, write_comparison

CLASSES, COLOURS = ("cat", "dog", "cow"), ((255, 0, 0), (0, 255, 0), (0, 0, 255))
TRUTH = np.array([[0, 0, 0, 1], [0, 0, 255, 255]], np.uint8)
PREDICTED = np.array([[0, 0, 1, 1], [2, 0, 0, 1]], np.uint8)
# Of a page without pictures.
EMPTY = dict.fromkeys(("dataset", "segment_by", "mean_iou", "pixel_accuracy", "shown"), "") | {
    "classes": [],
    "missing": 0,
    "files": ["index.html"],
    "number": 1,
    "start": 0,
    "pictures": [],
}
METRICS = {"mean_iou": 0.5, "pixel_accuracy": 0.25, "iou": {"cat": 0.5, "dog": None, "cow": 0.0}}


def test_areas_and_shares_counted_by_hand() -> None:
    areas = measure(TRUTH, PREDICTED)
    assert areas == Areas({0: 5, 1: 1, IGNORED: 2}, {0: 4, 1: 3, 2: 1}, right=4)
    assert areas.accuracy == 4 / 6, "of the judged pixels"
    assert legend(areas, CLASSES, COLOURS) == [
        Entry("cat", (255, 0, 0), 5 / 8, 4 / 8),
        Entry("dog", (0, 255, 0), 1 / 8, 3 / 8),
        Entry("cow", (0, 0, 255), 0, 1 / 8),
        Entry("not judged", None, 2 / 8, None),
    ]
    assert Areas.from_json(areas.to_json()) == areas


def test_the_order_is_that_of_the_truth_then_of_the_prediction_then_of_the_classes() -> None:
    areas = Areas({1: 10}, {0: 3, 1: 1, 2: 6}, 1)
    assert [each.name for each in legend(areas, CLASSES, COLOURS)] == ["dog", "cow", "cat"]
    areas = Areas({0: 5, 1: 5}, {1: 5, 0: 5}, 0)
    assert [each.name for each in legend(areas, CLASSES, COLOURS)] == ["cat", "dog"]


def test_nothing_judged() -> None:
    areas = measure(np.full((2, 2), IGNORED, np.uint8), np.zeros((2, 2), np.uint8))
    assert areas.accuracy is None
    assert [(each.name, each.truth) for each in legend(areas, CLASSES, COLOURS)] == [("cat", 0), ("not judged", 1)]


def test_percent() -> None:
    shares = (None, 0.0, 1e-6, 0.0004, 0.0005, 0.1234, 0.9996, 1.0)
    assert [percent(share) for share in shares] == ["-", "-", "<0.1", "<0.1", "0.1", "12.3", "100.0", "100.0"]


@pytest.mark.parametrize(
    "text", ["", "[]", "[[[], []], 0]", "[[[[0, -1]], [[0, 1]]], 0]", "[[[[0]], [[0, 1]]], 0]", "[" * 9999]
)
def test_what_is_no_legend_is_refused(text) -> None:
    with pytest.raises(ValueError, match="not the areas of classes"):
        Areas.from_json(text)


@pytest.fixture
def sheet(tmp_path):
    write_comparison(tmp_path / "a.png", Image.new("RGB", (4, 2), "white"), TRUTH, PREDICTED, CLASSES, COLOURS)
    return tmp_path / "a.png"


def test_classes_are_painted_in_exactly_their_colours(sheet) -> None:
    pixels = np.asarray(Image.open(sheet))
    assert pixels.shape[1] == 3 * 384 + 8
    panels = [pixels[:192, left : left + 384] for left in (0, 388, 776)]
    cells = [panel.reshape(2, 96, 4, 96, 3).swapaxes(1, 2).reshape(2, 4, -1, 3) for panel in panels]
    assert np.unique(cells[0].reshape(-1, 3), axis=0).tolist() == [[255, 255, 255]]
    for drawn, labels in zip(cells[1:], (TRUTH, PREDICTED), strict=True):
        for place, label in np.ndenumerate(labels):
            colours = np.unique(drawn[place], axis=0).tolist()
            assert colours == ([[150] * 3, [236] * 3] if label == IGNORED else [list(COLOURS[label])])
    below = pixels[192:].reshape(-1, 3)
    for colour in COLOURS:
        assert (below == colour).all(axis=1).sum() > 500, "in the legend too, which covers nothing"


def test_a_file_says_what_is_in_it(sheet, tmp_path) -> None:
    with sheet.open("rb") as file:
        read = read_sheet(file)
    assert (read.panel, read.step, read.areas) == ((384, 192), 388, measure(TRUTH, PREDICTED))
    assert read.size == Image.open(sheet).size
    Image.open(sheet).save(tmp_path / "bare.png")
    (tmp_path / "cut.png").write_bytes(sheet.read_bytes()[:60])
    for name in ("bare.png", "cut.png"):
        with (tmp_path / name).open("rb") as file:
            assert read_sheet(file) is None


@pytest.mark.parametrize("size", [(1, 400), (400, 1), (30, 40)])
def test_pictures_of_any_shape_have_a_legend_that_can_be_read(tmp_path, size) -> None:
    labels = np.zeros(size[::-1], np.uint8)
    write_comparison(tmp_path / "a.png", Image.new("RGB", size), labels, labels, ("x" * 300,), COLOURS[:1])
    with (tmp_path / "a.png").open("rb") as file:
        read = read_sheet(file)
    assert max(read.panel) == 384
    assert 3 * 240 <= read.size[0] <= 3 * 384 + 8, "shown on 390 pixels, its letters have 11 or more"


def test_every_picture_has_a_file_of_its_own() -> None:
    names = ["a/b_c", "a_b/c", "plain", "ü #1", "x" * 400, "é" * 300]
    files = file_names(names)
    assert len(set(files)) == len(names)
    assert files[2:4] == ["plain.png", "ü #1.png"]
    assert all(len(file.encode()) < 210 and "/" not in file for file in files)
    assert files == file_names(names)


ODD = ["ü #1%20?", "<b>bold</b>", "a/b", "'\"&amp;", "javascript:x"]


@pytest.fixture
def gallery(tmp_path):
    """A folder with a page, and its data; one of the pictures is not there."""
    classes = ("cat", "<i>dog</i>", "cow")
    data = SegmentationData([*ODD, "gone"], classes, (("x",),) * 3, ("{}",), 32, lambda _: None, "odd set", COLOURS)
    folder = tmp_path / "first"
    for file in file_names(ODD):
        write_comparison(folder / file, Image.new("RGB", (4, 2)), TRUTH, PREDICTED, classes, COLOURS)
    metrics = METRICS | {"iou": dict(zip(classes, METRICS["iou"].values(), strict=True))}
    return folder, data, metrics


def test_the_page_has_legends_as_text_and_can_be_moved(gallery, tmp_path) -> None:
    folder, data, metrics = gallery
    assert write_gallery(folder, data, metrics, "patches") == folder / "index.html"
    shutil.move(folder, tmp_path / "moved #2")
    page = parse((tmp_path / "moved #2" / "index.html").read_text())
    assert "Segmentation of odd set" in page.text
    assert "Not shown: 1 of the set" in page.text
    assert "mean IoU 50.0 %" in page.text
    for name in (*ODD, "<i>dog</i>"):
        assert name in page.text
    images = [attributes for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 3 * len(ODD)
    for file, three in zip(file_names(ODD), np.reshape(images, (-1, 3)), strict=True):
        for attributes, title in zip(three, ("picture", "truth", "prediction"), strict=True):
            assert attributes["src"] == pages.link(file, tmp_path / "index.html").rpartition("/")[2]
            assert attributes["alt"].endswith(f": {title}")
    cells = page.text.replace("\n", " ")
    assert cells.count("cat62.550.0") == len(ODD), "shares of the truth and of the prediction"
    assert cells.count("not judged25.0-") == len(ODD)
    assert cells.count("right, of the judged pixels66.7") == len(ODD)
    swatches = [attributes for _, attributes in page.tags if attributes.get("class", "").startswith("swatch")]
    assert sum(each["class"] == "swatch hatched" for each in swatches) == len(ODD)
    assert {each["style"] for each in swatches if "style" in each} == {
        "background: rgb(255, 0, 0)",
        "background: rgb(0, 255, 0)",
        "background: rgb(0, 0, 255)",
    }


def test_many_pictures_are_on_several_pages_that_lead_to_each_other(gallery, monkeypatch, capsys) -> None:
    folder, data, metrics = gallery
    monkeypatch.setattr(evaluate_gallery, "_ON_A_PAGE", 2)
    (folder / "page-4.html").write_text(pages.render("segmentation", "", **EMPTY))  # of a run with more pictures
    (folder / "page-5.html").write_text("of somebody else")
    write_gallery(folder, data, metrics, "patches")
    assert "5/5 pictures" in capsys.readouterr().err
    files = ["index.html", "page-2.html", "page-3.html"]
    assert sorted(path.name for path in folder.glob("*.html")) == [*files, "page-5.html"]
    shown = [parse((folder / file).read_text()) for file in files]
    for number, page in enumerate(shown):
        images = {attributes["src"] for tag, attributes in page.tags if tag == "img"}
        expected = file_names(ODD)[2 * number : 2 * number + 2]
        assert images == {pages.link(folder / file, folder / "index.html") for file in expected}
        links = [attributes for tag, attributes in page.tags if tag == "a" and attributes["href"].endswith(".html")]
        assert {each["href"] for each in links} == {*files} - {files[number]}
        turned = {each["rel"]: each["href"] for each in links if "rel" in each}
        assert turned == {
            name: files[other] for name, other in (("prev", number - 1), ("next", number + 1)) if 0 <= other < 3
        }
        assert ("and their IoU" in page.text) is (number == 0)
        assert "5 pictures by patches" in page.text
        assert f"Pictures {2 * number + 1} to {min(2 * number + 2, 5)}" in page.text


def test_a_file_of_an_earlier_release_or_of_another_set_is_shown_whole(gallery) -> None:
    folder, data, metrics = gallery
    first, second, *_ = file_names(ODD)
    Image.new("RGB", (9, 9)).save(folder / first)
    more = ("p", "q", "r", "s")
    four = np.full((2, 4), 3, np.uint8)
    write_comparison(folder / second, Image.new("RGB", (4, 2)), four, four, more, (*COLOURS, (9, 9, 9)))
    write_gallery(folder, data, metrics, "patches")
    page = parse((folder / "index.html").read_text())
    alone = [attributes["alt"] for tag, attributes in page.tags if tag == "img" and "style" not in attributes]
    assert alone == [f"{name}: picture, truth and prediction" for name in ODD[:2]]


@pytest.fixture
def evaluated(monkeypatch, gallery):
    """() -> what the task prints of work that is done, whose outcome it gives back."""
    folder, data, metrics = gallery
    outcome = dataclasses.make_dataclass("Outcome", ["metrics"])(metrics)
    monkeypatch.setattr(segmentation_task, "segment", lambda *_: print("the work") or outcome)

    def evaluate() -> None:
        task = segmentation_task.task(save=folder)
        assert task.evaluate(None, None, data, segmentation_task.SegmentationSettings(), None) is outcome

    return evaluate


def test_without_jinja_there_are_pictures_without_a_page(monkeypatch, gallery, evaluated, capsys) -> None:
    folder, data, metrics = gallery
    monkeypatch.setitem(sys.modules, "jinja2", None)
    evaluated()
    before, work, after = capsys.readouterr().out.splitlines()
    assert before.startswith(f"{folder} will have no index.html, which needs Jinja2: ")
    assert work == "the work"
    assert after == f"pictures (original, truth, prediction): {folder}"
    assert not (folder / "index.html").exists()
    with pytest.raises(FlairError, match="Jinja2"):
        write_gallery(folder, data, metrics, "patches")


def test_a_full_disk_costs_the_page_but_not_the_figures(monkeypatch, gallery, evaluated, capsys, caplog) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(segmentation_task, "write_gallery", full)
    evaluated()
    assert "index.html: not written: [Errno 28] No space left on device" in caplog.text
    assert "written" not in capsys.readouterr().out


def test_a_page_of_somebody_else_is_not_replaced(gallery) -> None:
    folder, *_ = gallery
    (folder / "index.html").write_text("of somebody else")
    with pytest.raises(ConfigError, match=r"its index\.html is of something else, and would be replaced; choose"):
        segmentation_task.task(save=folder)
    (folder / "index.html").write_text(pages.render("segmentation", "", **EMPTY))
    segmentation_task.task(save=folder)


def test_a_folder_in_the_pages_place_is_found_before_the_work(gallery) -> None:
    folder, *_ = gallery
    (folder / "index.html").mkdir()
    with pytest.raises(ConfigError, match=r"--save .*first: its index.html is a folder; choose another folder"):
        segmentation_task.task(save=folder)


def test_what_a_file_says_cannot_break_the_page(gallery) -> None:
    folder, data, metrics = gallery
    for file, text in zip(
        file_names(ODD),
        ("[1, 1, 1, 1]", json.dumps([10**9, 1, 1, "x"]), "nonsense", "[]", json.dumps([0, 0, 0, "[[[], []], 0]"])),
        strict=True,
    ):
        about = PngImagePlugin.PngInfo()
        about.add_text("flair-jax", text)
        Image.new("RGB", (9, 9)).save(folder / file, pnginfo=about)
    write_gallery(folder, data, metrics, "patches")
    page = parse((folder / "index.html").read_text())
    assert sum(tag == "img" for tag, _ in page.tags) == len(ODD)
