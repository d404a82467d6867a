"""Small copies of the layouts of sets of phrases to find in pictures."""

import json
from pathlib import Path

from made_segmentation import write_picture

SIZE = (8, 4)  # width, height
SQUARE = [[1, 0, 3, 0, 3, 2, 1, 2]]  # columns 1 and 2 of rows 0 and 1
CODE = {"size": [4, 8], "counts": [4, 2, 2, 2, 22]}  # the same, column by column


def write_json(path: Path, contents: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents))


def _box(name: str, sides: tuple[int, int, int, int]) -> str:
    tags = "".join(f"<{tag}>{side}</{tag}>" for tag, side in zip(("xmin", "ymin", "xmax", "ymax"), sides, strict=True))
    return f"<object>{name}<bndbox>{tags}</bndbox></object>"


def entities_xml(size: tuple[int, int] = SIZE) -> str:
    """Chain 1 has two boxes, 2 shares the second, 3 is the scene, 4 is not in the picture."""
    return (
        f"<annotation><filename>10.jpg</filename><size><width>{size[0]}</width><height>{size[1]}</height>"
        "<depth>3</depth></size>"
        + _box("<name>1</name>", (2, 1, 3, 2))
        + _box("<name>1</name><name>2</name>", (7, 4, 8, 4))
        + "<object><name>3</name><scene>1</scene><nobndbox>0</nobndbox></object>"
        "<object><name>4</name><scene>0</scene><nobndbox>1</nobndbox></object></annotation>"
    )


def make_entities(root: Path) -> None:
    for part in ("Sentences", "Annotations"):
        (root / part).mkdir(parents=True)
    (root / "test.txt").write_text("10\n20\n")
    (root / "val.txt").write_text("20\n")
    sentences = (
        "[/EN#1/people/clothing Two men 's hats] near [/EN#2/other it] in [/EN#3/scene a field] .\n"
        "[/EN#0/notvisual One] of [/EN#1/people the men] without [/EN#4/other a dog] .\n"
    )
    for name in ("10", "20"):
        (root / "Sentences" / f"{name}.txt").write_text(sentences)
        (root / "Annotations" / f"{name}.xml").write_text(entities_xml())
        write_picture(root / "flickr30k-images" / f"{name}.jpg", SIZE)


def coco_form(**annotation: object) -> dict:
    """An image with one object, which `annotation` has more fields of."""
    image = {"id": 7, "file_name": "a.png", "width": SIZE[0], "height": SIZE[1], "expressions": ["a hat", "the hat"]}
    return {"images": [image], "annotations": [{"id": 3, "image_id": 7, "bbox": [1, 0, 2, 2], **annotation}]}


def make_folder(root: Path, **annotation: object) -> None:
    write_json(root / "phrases.json", coco_form(**annotation))
    write_picture(root / "a.png", SIZE)


def make_mdetr(root: Path, name: str = "refcoco", split: str = "val") -> None:
    """Two expressions of one object of COCO's picture 5, whose annotation is 30."""
    images = [
        {"file_name": "COCO_train2014_000000000005.jpg", "height": SIZE[1], "width": SIZE[0], "id": number}
        | {"original_id": 5, "caption": caption, "dataset_name": name, "tokens_negative": [[0, 4]]}
        for number, caption in enumerate(("left hat", "hat"))
    ]
    annotations = [
        {"area": 4, "iscrowd": 0, "image_id": number, "category_id": 1, "id": number, "bbox": [1, 0, 2, 3]}
        | {"original_id": 30, "tokens_positive": [[0, 3]]}
        for number in range(2)
    ]
    write_json(root / f"mdetr_annotations/finetune_{name}_{split}.json", {"images": images, "annotations": annotations})
    write_picture(root / "train2014/COCO_train2014_000000000005.jpg", SIZE)


def make_instances(path: Path) -> None:
    """COCO's own annotations, as in annotations/instances_train2014.json and in the refer release."""
    write_json(path, {"images": [], "annotations": [{"id": 30, "image_id": 5, "segmentation": SQUARE}]})


def make_seqtr(root: Path, published: str = "refcoco-unc") -> None:
    record = {"bbox": [1, 0, 2, 2], "image_id": 5, "width": SIZE[0], "height": SIZE[1], "mask": CODE}
    splits = {"train": [], "val": [record | {"expressions": ["left hat", "hat"]}], "testA": []}
    write_json(root / f"annotations/{published}/instances.json", splits)
    write_picture(root / "coco/train2014/COCO_train2014_000000000005.jpg", SIZE)
