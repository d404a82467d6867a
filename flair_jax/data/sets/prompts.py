"""Names of classes, and the templates that make sentences of them. Imports no JAX."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from flair_jax.errors import DatasetError, plural
from flair_jax.files import expand


def imagenet_names() -> dict[str, str]:
    """CLIP's names of ImageNet's 1,000 classes by synset ("n01440764"), in the order of ImageNet's labels."""
    return dict(_shipped("class_names")["imagenet"])


def cifar_names(name: str) -> list[str]:
    """CLIP's names of the classes of "cifar10" or "cifar100", in the order of their labels."""
    return list(_shipped("class_names")[name])


def template_lists() -> dict[str, tuple[str, ...]]:
    """The lists of templates that are shipped, by name; `{}` stands for the class's name."""
    return {name: tuple(templates) for name, templates in _shipped("templates").items()}


def read_templates(choice: str) -> tuple[str, ...]:
    """Templates that a user chose.

    Args:
      choice: the name of a list of `template_lists`, one template with `{}` in it, or a text file with one a line.

    Raises:
      DatasetError: if it is none of these, or a line of the file has no `{}`.
    """
    if choice in template_lists():
        return template_lists()[choice]
    if "{}" in choice:
        return (choice,)
    if not expand(choice).is_file():
        raise DatasetError(
            f"templates {choice}: no such file, nor one of the lists {', '.join(template_lists())}; "
            "a template itself must hold {} where the class's name goes"
        )
    lines = numbered_lines(expand(choice))
    for number, line in lines:
        if "{}" not in line:
            raise DatasetError(f"{choice}, line {number}: a template must hold {{}} where the class's name goes")
    if not lines:
        raise DatasetError(f"{choice}: holds no templates; write one a line")
    return tuple(line for _, line in lines)


def sentences(templates: Sequence[str], name: str) -> list[str]:
    """Each template with the name in it."""
    return [template.replace("{}", name) for template in templates]


def read_class_names(path: str | Path, keys: Sequence[str]) -> list[str]:
    """Names for the classes of a set, from a file.

    Args:
      path: a JSON object of key and name, a JSON list of names in the order of the keys, or a text file with one name a
        line in that order.
      keys: the set's own identifiers of its classes: folders, synsets.

    Raises:
      DatasetError: if the file cannot be read, or does not name each class once.
    """
    path = expand(path)
    names: Any = _json(path) if path.suffix.lower() == ".json" else [line for _, line in numbered_lines(path)]
    if isinstance(names, dict):
        missing = [key for key in keys if key not in names]
        if missing:
            raise DatasetError(
                f"{path}: {len(missing)} of {len(keys)} classes have no name there, the first is {missing[0]}"
            )
        names = [names[key] for key in keys]
    if not isinstance(names, list) or not all(isinstance(name, str) and name.strip() for name in names):
        raise DatasetError(f"{path}: expected an object of key and name, or a list of names that are not empty")
    if len(names) != len(keys):
        raise DatasetError(f"{path}: holds {plural(len(names), 'name')} for {plural(len(keys), 'class')}")
    return [name.strip() for name in names]


@functools.cache
def _shipped(name: str) -> Any:
    return json.loads((resources.files(__package__) / "clip_prompts" / f"{name}.json").read_text(encoding="utf-8"))


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DatasetError(f"{path}: cannot be read as JSON ({error})") from None


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """A file's lines that are not empty, stripped, with their numbers from 1.

    Raises:
      DatasetError: if it cannot be read as text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read as text in UTF-8 ({error})") from None
    lines = text.split("\n")  # which is how reading ends all lines; `splitlines` also cuts at a form feed and others
    return [(number, line.strip()) for number, line in enumerate(lines, start=1) if line.strip()]
