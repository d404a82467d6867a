"""Small copies of the layouts of sets of captions to choose from."""

import json
from pathlib import Path

from made_segmentation import write_picture

SIZE = (8, 4)  # width, height
SPLITS = ("add_att", "add_obj", "replace_att", "replace_obj", "replace_rel", "swap_att", "swap_obj")
NAMES = ("000000000001.jpg", "000000000002.jpg")


def write_json(path: Path, contents: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents))


def _pictures(folder: Path, names: tuple[str, ...] = NAMES) -> None:
    for seed, name in enumerate(names):
        write_picture(folder / name, SIZE, seed)


def make_sugarcrepe(root: Path, pictures: str = "val2017") -> None:
    """A question on the first picture in each split, two in the first, of which one is on the second picture."""
    for split in SPLITS:
        names = NAMES if split == SPLITS[0] else NAMES[:1]
        records = {
            str(number): {"filename": name, "caption": f"a {split}", "negative_caption": f"no {split} {number}"}
            for number, name in enumerate(names)
        }
        write_json(root / "data" / f"{split}.json", records)
    _pictures(root / pictures)


def make_sugarcrepe_pp(root: Path) -> None:
    for split in SPLITS[2:]:
        record = {"id": 0, "filename": NAMES[0], "caption": "a cat", "caption2": "one cat", "negative_caption": split}
        write_json(root / "data" / f"{split}.json", [record])
    _pictures(root / "val2017")


def make_winoground(root: Path) -> None:
    lines = []
    for number, tag in enumerate(("Object", "Relation")):
        example = {"id": number, "tag": "Noun", "secondary_tag": "", "num_main_preds": 1, "collapsed_tag": tag}
        for which in range(2):
            name = f"ex_{number}_img_{which}"
            example |= {f"image_{which}": name, f"caption_{which}": f"caption {which} of {tag}"}
            write_picture(root / "images" / f"{name}.png", SIZE, 2 * number + which)
        lines.append(json.dumps(example) + "\n")
    (root / "examples.jsonl").write_text("".join(lines))


def genome(**changes: object) -> dict:
    """A record of VG-Relation."""
    return {
        "image_id": "1",
        "image_path": "1.jpg",
        "bbox_x": 2,
        "bbox_y": 1,
        "bbox_w": 4,
        "bbox_h": 2,
        "relation_name": "on",
        "true_caption": "the cat is on the mat",
        "false_caption": "the mat is on the cat",
        **changes,
    }


def make_genome(root: Path, name: str = "visual_genome_relation.json", **changes: object) -> None:
    write_json(root / name, [genome(**changes)])
    write_picture(root / "images/1.jpg", SIZE)


def make_order(root: Path, name: str, image: str) -> None:
    """Five captions of one picture; in one, a shuffle left the caption as it was."""
    options = ["a cat sat", "sat cat a", "a sat cat", "cat a sat", "a cat sat"]
    write_json(root / f"{name}.json", [{"image": image, "caption_options": options}])
    write_picture(root / image, SIZE)


def fgovd(**changes: object) -> dict:
    """A file of FG-OVD: a box with ten altered captions, and one with nine."""
    categories = [{"id": number, "name": f"a cup, altered {number}"} for number in range(12)]
    annotation = {"id": 5, "image_id": 3, "bbox": [2.5, 0.2, 3, 2], "category_id": 7, **changes}
    altered = [number for number in range(12) if number != 7]
    return {
        "images": [{"id": 3, "file_name": "val2017/000000000001.jpg", "width": SIZE[0], "height": SIZE[1]}],
        "annotations": [
            {"neg_category_ids": altered, **annotation},
            {**annotation, "id": 6, "neg_category_ids": altered[:9]},
        ],
        "categories": categories,
    }


def make_fgovd(root: Path, **changes: object) -> None:
    write_json(root / "benchmarks/1_attributes.json", fgovd(**changes))
    _pictures(root / "coco/val2017", NAMES[:1])
