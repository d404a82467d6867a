"""Class names and templates: those that are shipped, and those of users."""

import json

import pytest

from flair_jax.data.sets.prompts import (
    cifar_names,
    imagenet_names,
    read_class_names,
    read_templates,
    sentences,
    template_lists,
)
from flair_jax.errors import DatasetError


def test_the_shipped_lists_are_clips() -> None:
    names = imagenet_names()
    assert len(names) == 1000
    assert list(names) == sorted(names), "labels number the synsets in their order"
    assert (names["n01440764"], names["n02012849"], names["n03126707"]) == ("tench", "crane bird", "construction crane")
    # The two pairs that share a name in CLIP's list.
    assert len(set(names.values())) == 998
    assert names["n03773504"] == names["n04008634"] == "missile"
    assert cifar_names("cifar10")[:3] == ["airplane", "automobile", "bird"]
    assert len(set(cifar_names("cifar100"))) == 100
    lists = template_lists()
    assert {name: len(each) for name, each in lists.items()} == {
        "imagenet-80": 80,
        "imagenet-7": 7,
        "cifar-18": 18,
        "cifar-9": 9,
        "plain": 1,
    }
    assert all(template.count("{}") == 1 for each in lists.values() for template in each)
    assert all(len(set(each)) == len(each) for each in lists.values())
    assert set(lists["imagenet-7"]) < set(lists["imagenet-80"])


def test_templates_of_users(tmp_path) -> None:
    assert read_templates("imagenet-7") == template_lists()["imagenet-7"]
    assert read_templates("the background is {}") == ("the background is {}",)
    assert read_templates("{}") == ("{}",)
    file = tmp_path / "mine.txt"
    file.write_text("\n{}\n  a photo of {}, {0} and {x} \n\n", encoding="utf-8")
    assert read_templates(str(file)) == ("{}", "a photo of {}, {0} and {x}")
    assert sentences(read_templates(str(file)), "a dog") == ["a dog", "a photo of a dog, {0} and {x}"]


def test_lines_end_where_editors_end_them(tmp_path) -> None:
    """A name pasted from elsewhere may hold what Python, too, takes for an end."""
    names = ["form\x0cfeed", "next\x85line", "line\u2028and paragraph\u2029ends"]
    file = tmp_path / "mine.txt"
    for end in ("\n", "\r\n", "\r"):
        file.write_bytes(end.join(names).encode())
        assert read_class_names(file, ["a", "b", "c"]) == names
    file.write_bytes("\r\n".join(f"{name} {{}}" for name in names).encode())
    assert read_templates(str(file)) == tuple(f"{name} {{}}" for name in names)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a photo of a {}.\na photo\n", "line 2: a template must hold {} where the class's name goes"),
        (b"\n\n", "holds no templates; write one a line"),
        (b"\xff\xfe{}", "cannot be read as text in UTF-8"),
    ],
)
def test_a_bad_template_file_is_one_sentence(tmp_path, content: bytes, message: str) -> None:
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(DatasetError, match="t.txt") as error:
        read_templates(str(tmp_path / "t.txt"))
    assert message in str(error.value)


def test_a_missing_template_file_names_the_lists() -> None:
    with pytest.raises(DatasetError, match=r"templates imagenet-8: no such file, nor one of the lists imagenet-80, "):
        read_templates("imagenet-8")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("names.json", json.dumps({"b": "bee", "a": " ant ", "c": "unused"})),
        ("names.JSON", json.dumps(["ant", "bee"])),
        ("names.txt", "ant\n\nbee\n"),
    ],
)
def test_class_names_of_users(tmp_path, file: str, content: str) -> None:
    content = f"\ufeff{content}"
    (tmp_path / file).write_text(content)
    assert read_class_names(tmp_path / file, ["a", "b"]) == ["ant", "bee"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("n.json", '{"a": "ant"}', "1 of 2 classes have no name there, the first is b"),
        ("n.json", '["ant"]', "holds 1 name for 2 classes"),
        ("n.json", '["ant", 3]', "expected an object of key and name, or a list of names"),
        ("n.json", '["ant", " "]', "names that are not empty"),
        ("n.json", "7", "expected an object of key and name"),
        ("n.json", "{", "cannot be read as JSON"),
        ("n.txt", "ant\nbee\ncow\n", "holds 3 names for 2 classes"),
    ],
)
def test_bad_class_names_are_one_sentence(tmp_path, file: str, content: str, message: str) -> None:
    (tmp_path / file).write_text(content)
    with pytest.raises(DatasetError) as error:
        read_class_names(tmp_path / file, ["a", "b"])
    assert str(error.value).startswith(str(tmp_path / file))
    assert message in str(error.value)


def test_a_missing_file_of_class_names_is_one_sentence(tmp_path) -> None:
    with pytest.raises(DatasetError, match="gone.txt: cannot be read"):
        read_class_names(tmp_path / "gone.txt", ["a"])
