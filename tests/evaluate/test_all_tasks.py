"""`flair-jax evaluate --dataset all`: all tasks with data, one table in all its forms, and pages of what went wrong."""

import argparse
import html
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from labelled import random_cifar, write_binary
from made_choices import make_sugarcrepe
from made_grounding import make_folder
from made_segmentation import make_voc
from parsed import parse
from photographs import PHOTOGRAPHS

from flair_jax.cli import main
from flair_jax.commands.evaluate_tasks import ROWS, choose_tasks
from flair_jax.data.sets.retrieval_data import RetrievalData
from flair_jax.errors import FlairError
from flair_jax.evaluate import markdown
from flair_jax.evaluate.report import document
from flair_jax.evaluate.retrieval_details import LENGTHS, find_worst, recall_by_length
from flair_jax.evaluate.retrieval_task import figures, table
from flair_jax.models.config import TextConfig
from flair_jax.parallel.processes import ALONE
from flair_jax.scoring.ranking import ScoreBlock, best_images


@pytest.fixture(scope="module")
def sets(photographs, tmp_path_factory) -> Path:
    """One small set of each task in a folder."""
    root = tmp_path_factory.mktemp("sets")
    shutil.copytree(photographs, root / "COCO")
    write_binary(root / "cifar" / "cifar-10-batches-bin" / "test_batch.bin", *random_cifar(5, 10))
    make_voc(root / "VOCdevkit" / "VOC2012", [0, 1, 2, 255])
    make_folder(root / "phrases")
    make_sugarcrepe(root / "crepe")
    return root


@pytest.fixture(scope="module")
def run(small_checkpoint, sets, tmp_path_factory) -> Path:
    """What one run writes, and what it prints as `printed.txt`."""
    out = tmp_path_factory.mktemp("out")
    words = ["evaluate", "--checkpoint", small_checkpoint, "--dataset", "all", "--data-dir", sets, "--batch-size", 8]
    files = ["--output", out / "all.json", "--report", out / "all.html", "--report", out / "all.md"]
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *texts, **_: lines.append(" ".join(map(str, texts))))
        assert not main([*map(str, [*words, "--templates", "a photo of a {}.", *files])])
    (out / "printed.txt").write_text("\n".join(lines))
    return out


def test_every_task_that_has_data_is_run_once(run) -> None:
    results = json.loads((run / "all.json").read_text())["results"]
    assert [(each["task"], each["dataset"]) for each in results] == [
        ("retrieval", "coco"),
        ("classify", "cifar10"),
        ("segment", "voc20"),
        ("segment", "voc21"),
        ("point", "folder"),
        ("choose", "sugarcrepe"),
    ]
    assert results[0]["settings"]["mode"] == "text-conditioned"
    assert results[2]["settings"]["segment_by"] == "patches"
    assert "mode" not in json.loads((run / "all.json").read_text())["settings"]
    assert not (run / "all.json.partial").exists()


def test_the_table_is_the_same_in_all_forms(run) -> None:
    written = json.loads((run / "all.json").read_text())
    result = {(each["task"], each["dataset"]): each for each in written["results"]}
    shown = {(each["task"], each["dataset"], each["measure"]): each["percent"] for each in written["summary"]}
    metrics = result["retrieval", "coco"]["metrics"]
    assert shown["retrieval", "coco", "text to image R@1"] == 100 * metrics["text_to_image_R@1"]
    assert shown["retrieval", "coco", "image to text R@1"] == 100 * metrics["image_to_text_R@1"]
    assert shown["classify", "cifar10", "top-1"] == 100 * result["classify", "cifar10"]["metrics"]["top1"]
    assert shown["segment", "voc21", "mean IoU"] == 100 * result["segment", "voc21"]["metrics"]["mean_iou"]
    pointing = result["point", "folder"]["metrics"]["attention"]["pointing"]
    assert shown["point", "folder", "pointing, attention"] == 100 * pointing
    assert shown["choose", "sugarcrepe", "accuracy, chance, mean of kinds"] == 50
    printed, page, text = ((run / name).read_text() for name in ("printed.txt", "all.html", "all.md"))
    printed = printed[printed.index("all that was measured") :]
    for (_, _, measure), percent in shown.items():
        assert re.search(rf"{re.escape(measure)} +{percent:.1f}\n", printed)
        assert f'<th scope="row">{measure}</th><td>{percent:.1f}</td>' in page
        assert f" | {measure} | {percent:.1f} |  |  |" in text


def test_both_pages_say_all_that_the_terminal_does_and_what_it_means(run, small_checkpoint, sets) -> None:
    written = json.loads((run / "all.json").read_text())
    result = {(each["task"], each["dataset"]): each for each in written["results"]}
    for page in (parse((run / "all.html").read_text()).text, (run / "all.md").read_text()):
        assert f"Evaluation of {small_checkpoint}" in page
        assert re.search(r"written \d{4}-\d\d-\d\d \d\d:\d\d UTC; flair-jax \S+, jax \S+; float32; \d+ x cpu", page)
        assert f"data: {sets / 'COCO'}, mode: text-conditioned" in page
        assert "segment by: patches, short side: 336" in page
        assert "point: folder phrases" in page, "users' own sets are told apart by their folders"
        assert "are longer than the model's" in page
        for row in ROWS.values():
            assert row.name in page
        for word in ("box accuracy", "pooled-patches", "uniform", "R@k", "top-k", "chance", "accuracy by kind"):
            assert word in page
    cells = re.findall(r"<td>([^<]*)</td>", (run / "all.html").read_text())
    for values in result["point", "folder"]["metrics"].values():
        row = [f"{100 * values[each]:.1f}" for each in ("pointing", "pixel_pointing", "mean_iou", "box_accuracy")]
        assert any(cells[start : start + 4] == row for start in range(len(cells)))
        assert f" | {' | '.join(row)} |" in (run / "all.md").read_text()
    for kind, values in result["choose", "sugarcrepe"]["kinds"].items():
        assert f"| {kind} | {values['questions']:,} | " in (run / "all.md").read_text()


def test_a_top_k_is_told_only_where_it_was_used(small_checkpoint, photographs, tmp_path) -> None:
    words = ["evaluate", "--checkpoint", small_checkpoint, "--dataset", "coco", "--data-dir", photographs]
    assert not main([*map(str, [*words, "--mode", "global", "--report", tmp_path / "a.md"])])
    assert not main([*map(str, [*words, "--mode", "top-k", "--top-k", 2, "--report", tmp_path / "b.md"])])
    assert f"data: {photographs}, mode: global.\n" in (tmp_path / "a.md").read_text()
    assert f"data: {photographs}, mode: top-k, top k: 2.\n" in (tmp_path / "b.md").read_text()


def test_the_pages_show_the_captions_that_missed_their_pictures(run) -> None:
    worst = json.loads((run / "all.json").read_text())["results"][0]["worst"]
    assert 0 < len(worst) <= 10
    assert [each["rank"] for each in worst] == sorted((each["rank"] for each in worst), reverse=True)
    captions = {text: name for name, texts in PHOTOGRAPHS.items() for text in texts}
    page, text = ((run / name).read_text() for name in ("all.html", "all.md"))
    shown = parse(page)
    assert [attributes["scope"] for tag, attributes in shown.tags if tag == "th"].count("rowgroup") == 6
    assert page.count("data:image/jpeg;base64,") == 2 * len(worst)
    for each in worst:
        assert Path(each["image"]).stem == Path(captions[each["text"]]).stem
        assert each["first"] != each["image"]
        assert each["text"] in html.unescape(page)
        assert f"| {each['rank']} | {each['text']} |" in text


def test_hostile_captions_stay_text(small_checkpoint, photographs, tmp_path) -> None:
    """And a result that is taken from an earlier run has its pictures too."""
    names = sorted(path.name for path in (photographs / "images" / "val2017").iterdir())[:3]
    for name in names:
        shutil.copy(photographs / "images" / "val2017" / name, tmp_path)
    lines = [json.dumps({"image": name, "caption": f"<script>|`{name}"}) for name in names]
    (tmp_path / "captions.jsonl").write_text("\n".join(lines))
    words = ["evaluate", "--checkpoint", small_checkpoint, "--dataset", "folder", "--data-dir", tmp_path]
    files = ["--report", tmp_path / "out.html", "--report", tmp_path / "out.md"]
    assert not main([*map(str, [*words, *files])])
    page, text = ((tmp_path / name).read_text() for name in ("out.html", "out.md"))
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "<script>" not in text
    assert r"&lt;script>\|\`" in text


def options(**given: object) -> argparse.Namespace:
    names = {name for row in ROWS.values() for name in row.takes}
    return argparse.Namespace(**{**dict.fromkeys([*names, "task"]), "dataset": "all", **given})


def test_tasks_that_do_not_take_an_option_are_named(capsys) -> None:
    assert [row.name for row in choose_tasks(options())] == list(ROWS)
    assert not capsys.readouterr().out
    assert [row.name for row in choose_tasks(options(distributed=True))] == ["retrieval"]
    assert "left out: classify, segment, point, choose, which do not take --distributed" in capsys.readouterr().out
    assert [row.name for row in choose_tasks(options(mode="top-k"))] == ["retrieval"]
    assert [row.name for row in choose_tasks(options(mode="global", short_side=48))] == list(ROWS)
    assert [row.name for row in choose_tasks(options(dataset="coco"))] == ["retrieval"]
    assert [row.name for row in choose_tasks(options(task="point"))] == ["point"]
    with pytest.raises(FlairError, match="--class-names: differs from set to set"):
        choose_tasks(options(class_names="x"))


def test_a_report_needs_an_ending_that_says_its_form(capsys) -> None:
    assert main(["evaluate", "--checkpoint", "x", "--dataset", "all", "--data-dir", ".", "--report", "out.pdf"]) == 2
    assert "out.pdf: name a file that ends in .html or .md" in capsys.readouterr().err


def test_recall_by_length() -> None:
    texts = ["one"] * 3 + [" ".join(["one"] * count) for count in (15, 16, 75, 76, 400)]
    ranks = np.array([0, 1, 0, 0, 0, 2, 0, 5])
    assert recall_by_length(texts, ranks, TextConfig()) == [
        {"tokens": [0, 15], "texts": 4, "text_to_image_R@1": 0.75},
        {"tokens": [16, 31], "texts": 1, "text_to_image_R@1": 1.0},
        {"tokens": [32, 75], "texts": 1, "text_to_image_R@1": 0.0},
        {"tokens": [76, 150], "texts": 1, "text_to_image_R@1": 1.0},
        {"tokens": [247, None], "texts": 1, "text_to_image_R@1": 0.0},
    ]
    assert len(LENGTHS) == 6


def test_the_worst_queries_and_what_they_found() -> None:
    scores = np.array([[1, 5, 2, 0], [4, 5, 2, 1], [3, 1, 2, 9]], np.float32)
    blocks = [ScoreBlock(2, lambda: scores[:2]), ScoreBlock(1, lambda: scores[2:])]
    data = RetrievalData([Path("a"), Path("b"), Path("c")], ["p", "q", "r", "s"], np.array([0, 2, 2, 2]))

    def best(texts: np.ndarray) -> np.ndarray:
        return best_images(blocks, 0, texts, ALONE)

    assert best(np.arange(4)).tolist() == [1, 0, 0, 2], "the first of equal scores"
    # Text q has two better pictures, p as well; r has two equal ones before it; s is right.
    assert find_worst(data, np.array([2, 2, 1, 0]), best) == [
        {"text": "p", "rank": 3, "image": "a", "first": "b"},
        {"text": "q", "rank": 3, "image": "c", "first": "a"},
        {"text": "r", "rank": 2, "image": "c", "first": "a"},
    ]
    assert find_worst(data, np.zeros(4, np.int64), best) == []


def test_settings_that_differ_stand_with_the_results() -> None:
    environments = [{"settings": {"dtype": "float32", "side": side}, "processes": 1} for side in (336, 448)]
    written = document([("segment", {"dataset": str(number)}, each) for number, each in enumerate(environments)])
    assert written == {
        "results": [
            {"task": "segment", "dataset": "0", "settings": {"side": 336}},
            {"task": "segment", "dataset": "1", "settings": {"side": 448}},
        ],
        "settings": {"dtype": "float32"},
        "processes": 1,
    }
    alone = document([("segment", {"dataset": "0"}, environments[0])])
    assert alone["settings"] == {"dtype": "float32", "side": 336}


def test_a_result_of_an_earlier_release_is_shown_too() -> None:
    """Finished sets of a half-done run that was begun before lengths and queries were recorded."""
    entry = {
        "dataset": "coco",
        "images": 1,
        "images_of_whole_set": 1,
        "texts": 1,
        "texts_of_whole_set": 1,
        "metrics": {f"{way}_{name}": 1.0 for way in ("text_to_image", "image_to_text") for name in METRICS},
        "ties": {"share": {}, "ties_for": {}, "ties_against": {}},
        "cut_off": {"context_length": 77, "texts": 0, "texts_share": 0.0, "tokens_share": 0.0},
        "published_R@1_percent": {"text_to_image": 53.3, "image_to_text": 68.0},
    }
    assert "by the captions' tokens" not in table([entry], argparse.Namespace(mode="global"))
    assert [(each.percent, each.others, each.source) for each in figures(entry)] == [
        (100, 53.3, "Xiao et al., CVPR 2025"),
        (100, 68.0, "Xiao et al., CVPR 2025"),
    ]


METRICS = ("R@1", "R@5", "R@10", "mean_rank", "median_rank")


def test_text_is_text_in_markdown() -> None:
    row = ["a *red* cup [x](http://t)", "![](http://t/x.png) _so_", "replace_att | `b` \\ <b> & ~~c~~"]
    lines = markdown.render("t", ["m"], ["voc_20: *gone*"], ["a", "b", "c"], [row], {}, []).splitlines()
    assert "- voc_20: \\*gone\\*" in lines
    assert (
        "| a \\*red\\* cup \\[x\\](http://t) | !\\[\\](http://t/x.png) \\_so\\_ "
        "| replace_att \\| \\`b\\` \\\\ &lt;b> &amp; \\~\\~c\\~\\~ |"
    ) in lines
