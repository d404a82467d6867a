"""The code of docs/extend.md runs as it is printed, and needs nothing that is not public."""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from runs import xla_flags

PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
pytestmark = pytest.mark.timeout(1800)  # of the fixture that runs all of it, on a busy machine
EXAMPLES = sorted((PAGE.parents[1] / "examples").glob("*.py"))


class Fence(NamedTuple):
    """A block of code: of its section, in a language, the file that it is or ""."""

    section: str
    language: str
    title: str
    code: str


def fences() -> list[Fence]:
    found = []
    for section in re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE):
        name = section.splitlines()[0]
        for language, title, code in re.findall(
            r'^```(\w+)(?: title="([\w.]+)")?\n(.*?)^```$', section, re.DOTALL | re.MULTILINE
        ):
            found.append(Fence(name, language, title, code))
    return found


def sections() -> list[str]:
    return list(dict.fromkeys(fence.section for fence in fences()))[1:]  # the first is before all sections


def programs() -> dict[str, str]:
    """Of the page and of the examples: name -> text."""
    of_page = {f"{fence.section}: {fence.title}": fence.code for fence in fences() if fence.language == "python"}
    return of_page | {path.name: path.read_text() for path in EXAMPLES}


def test_the_page_shows_all_that_can_be_changed() -> None:
    assert sections() == ["A term of the loss", "A pooling", "A tower", "An optimiser", "Data", "A loop"]
    assert all(fence.language in ("python", "sh") for fence in fences())
    for fence in fences():
        assert len(fence.code.splitlines()) < 40, fence
    for path in EXAMPLES:
        assert len(path.read_text().splitlines()) < 200, path


# Runs all blocks of code in one process, which imports JAX once: blocks by section from stdin, errors by section to
# stdout. What the blocks themselves print goes to stderr.
RUN = """
import contextlib, json, pathlib, shlex, sys, traceback
from flair_jax.cli import main

def run(language, code):
    if language == "python":
        exec(compile(code, "the page", "exec"), {"__name__": "__main__"})
        return
    for line in code.replace(chr(92) + chr(10), " ").splitlines():
        words = shlex.split(line)
        if words[0] == "flair-jax":
            assert main(words[1:]) == 0, line
        else:
            assert words[0] == "python" and len(words) == 2, line
            run("python", pathlib.Path(words[1]).read_text())

errors = {}
for section, blocks in json.load(sys.stdin).items():
    print(f"== {section}", file=sys.stderr)
    with contextlib.redirect_stdout(sys.stderr):
        try:
            for block in blocks:
                run(*block)
            errors[section] = ""
        except BaseException:
            errors[section] = traceback.format_exc()
print(json.dumps(errors))
"""


@pytest.fixture(scope="module")
def outcome(tmp_path_factory, scenes) -> tuple[Path, dict[str, str], str]:
    """The folder in which all of the page has run, errors by section, and what it has printed."""
    folder = tmp_path_factory.mktemp("extend")
    preparation = [fence for fence in fences() if fence.section.startswith("# ")]
    assert ['prepare("data", "small")' in fence.code for fence in preparation] == [True]  # which `scenes` has done
    (folder / "data").symlink_to(scenes)
    blocks: dict[str, list] = {section: [] for section in sections()}
    for fence in fences():
        if fence.title:
            (folder / fence.title).write_text(fence.code)
        elif fence.section in blocks:
            blocks[fence.section].append((fence.language, fence.code))
    environment = os.environ | {"XLA_FLAGS": xla_flags(1), "HOME": str(folder)}
    process = subprocess.run(
        [sys.executable, "-c", RUN],
        cwd=folder,
        env=environment,
        input=json.dumps(blocks),
        capture_output=True,
        text=True,
        check=True,
    )
    return folder, json.loads(process.stdout.splitlines()[-1]), process.stderr


@pytest.mark.parametrize("section", sections())
def test_what_is_printed_runs(section: str, outcome) -> None:
    folder, errors, printed = outcome
    assert not errors[section], f"{errors[section]}\n{printed}"
    for workdir in re.findall(r"--workdir=(\S+)", "".join(each.code for each in fences() if each.section == section)):
        assert read(folder / workdir)["loss"] > 0


def read(workdir: Path) -> dict[str, float]:
    """What a run has measured, each at its last step."""
    values: dict[str, float] = {}
    for line in (workdir / "metrics.jsonl").read_text().splitlines():
        values |= json.loads(line)
    return values


def test_the_term_is_weighted_and_logged(outcome) -> None:
    last = read(outcome[0] / "runs/term")
    expected = 0.5 * last["tcs"] + 0.5 * last["mps"] + 0.1 * last["agreement"]
    assert last["loss"] == pytest.approx(expected, rel=1e-5)  # sums of float32
    assert 0 < last["agreement"] < 1


def test_the_set_is_evaluated(outcome) -> None:
    last = read(outcome[0] / "runs/data")
    found = [value for name, value in last.items() if name.startswith("evaluation/") and name.endswith("R@1")]
    assert len(found) == 2
    assert all(0 <= value <= 100 for value in found)


def test_the_loop_trains(outcome) -> None:
    lines = outcome[2].split("== A loop")[1].splitlines()
    assert [line.split()[0] for line in lines if re.fullmatch(r"\d \d+\.\d+", line)] == ["1", "2", "3", "4"]


def names_in(node: ast.AST) -> list[str]:
    """The names that one node of a program has."""
    match node:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return [name]
        case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
            modules = [getattr(node, "module", "") or "", *(alias.name for alias in aliases)]
            return [part for module in modules for part in module.split(".")]
    return []


def root_of(target: ast.AST) -> ast.AST:
    return root_of(target.value) if isinstance(target, ast.Attribute) else target


@pytest.mark.parametrize("text", programs().values(), ids=programs())
def test_nothing_private_is_used_and_nothing_replaced(text: str) -> None:
    for node in ast.walk(ast.parse(text)):
        for name in names_in(node):
            assert not name.startswith("_") or name == "_" or name.endswith("__"), f"line {node.lineno}: {name}"
        # Attributes are set of what a program makes itself: its configuration, and the object that is made.
        for target in node.targets if isinstance(node, ast.Assign) else []:
            if isinstance(target, ast.Attribute):
                assert root_of(target).id in ("c", "config", "self"), f"line {node.lineno}: {ast.unparse(target)}"
    assert "setattr" not in text
