"""What holds for every file: its size, its functions' sizes, and what the documentation of public ones says."""

import ast
import pkgutil
import re
import statistics
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
FILES = sorted(file for room in ("flair_jax", "convert", "configs") for file in (REPOSITORY / room).glob("**/*.py"))
TREES = {file: ast.parse(file.read_text()) for file in FILES}
Function = ast.FunctionDef | ast.AsyncFunctionDef
# A type of arrays; one that tells the shape, or a state dict, whose arrays have many; a shape in a docstring, or a key.
ARRAY = re.compile(r"\b(np\.ndarray|(jax\.)?Array|AnyArray)\b")
TYPED = re.compile(r"\b\w+\[[^\"'\[]*[\"'][^\"']*[\"']\]|\b(dict|Mapping)\[str, np\.ndarray\]")
SHAPE = re.compile(r"\[[^\]]*\]|\bscalar\b|\bany shape\b|\bjax\.random\.key\b")


def name_of(file: Path, node: ast.stmt | None = None) -> str:
    return str(file.relative_to(REPOSITORY)) + (f":{node.lineno} {node.name}" if node else "")


def public_in(body: list[ast.stmt], within: str = "") -> Iterator[tuple[Function | ast.ClassDef, str]]:
    """Public functions, classes and methods, each with the docstring of its class."""
    for node in body:
        if isinstance(node, Function | ast.ClassDef) and not node.name.startswith("_"):
            yield node, within
            if isinstance(node, ast.ClassDef):
                yield from public_in(node.body, ast.get_docstring(node) or "")


def is_there(name: str) -> bool:
    """Whether a dotted name is a module's, or an attribute's that is reached from one."""
    module, _, attribute = name.rpartition(".")
    try:
        return (bool(module) and hasattr(pkgutil.resolve_name(module), attribute)) or bool(find_spec(name))
    except (AttributeError, ImportError):
        return False


def test_files_are_short() -> None:
    lengths = {name_of(file): len(file.read_text().splitlines()) for file in FILES}
    assert len(lengths) > 150
    assert {name: length for name, length in lengths.items() if length > 300} == {}
    assert statistics.median(lengths.values()) < 130


def test_functions_are_short() -> None:
    lengths = {
        name_of(file, node): node.end_lineno - node.lineno + 1
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, Function)
    }
    assert {name: length for name, length in lengths.items() if length > 60} == {}


def test_everything_public_is_documented() -> None:
    """Modules, classes, functions and methods; a Flax module's class says what `setup` does."""
    bare = [name_of(file) for file, tree in TREES.items() if not ast.get_docstring(tree)]
    bare += [
        name_of(file, node)
        for file, tree in TREES.items()
        for node, _ in public_in(tree.body)
        if node.name != "setup" and not ast.get_docstring(node)
    ]
    assert bare == []


def test_arrays_of_public_functions_have_shapes() -> None:
    """In their types, or else in the docstring of the function or its class."""
    bare = []
    for file, tree in TREES.items():
        for node, of_class in public_in(tree.body):
            if isinstance(node, Function):
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                types = [each.annotation for each in arguments] + [node.returns]
                written = " ".join(TYPED.sub("", ast.unparse(each)) for each in types if each)
                if ARRAY.search(written) and not SHAPE.search(f"{ast.get_docstring(node)} {of_class}"):
                    bare.append(name_of(file, node))
    assert bare == []


def test_typed_shapes_are_checked_while_the_tests_run() -> None:
    """In every module that has them; see conftest.py."""
    typed = [file.relative_to(REPOSITORY) for file in FILES if "jaxtyping" in file.read_text()]
    names = [".".join(file.with_suffix("").parts).removeprefix("flair_jax.") for file in typed]
    assert len(names) > 15
    loaders = {name: type(find_spec(f"flair_jax.{name}").loader).__name__ for name in names}
    assert {name for name, loader in loaders.items() if loader != "_JaxtypingLoader"} == set()


def test_names_in_the_text_are_there() -> None:
    """Dotted names that docstrings, comments and pages give in full, such as `flair_jax.train.train`."""
    texts = {*FILES, *REPOSITORY.glob("examples/*.py"), REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md")}
    named = {(name, file) for file in texts for name in re.findall(r"`(flair_jax(?:\.\w+)+)`", file.read_text())}
    assert len(named) > 50
    assert sorted(f"{name_of(file)}: {name}" for name, file in named if not is_there(name)) == []


# Folders of somebody's machine, and other places for packages than the public one.
ELSEWHERE = re.compile(r"(?<![\w./-])/(home|root|Users|mnt|work)/\w|index-url|artifactory", re.IGNORECASE)


def test_the_text_names_no_other_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a checkout of git")
    found = []
    for name in listed.stdout.split("\0"):
        path = REPOSITORY / name
        if path.is_file() and path != Path(__file__):
            text = path.read_bytes()
            if b"\0" not in text:
                found += [
                    f"{name}: {line}" for line in text.decode(errors="replace").splitlines() if ELSEWHERE.search(line)
                ]
    assert found == []
