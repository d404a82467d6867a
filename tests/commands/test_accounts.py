"""Every command of the documents is run, or is in a table that says why it is not."""

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import test_pages_of_evaluation
import test_pages_of_models
import test_pages_of_training
from accounts import ELSEWHERE, EXCEPTIONS, becomes, main, not_known
from documents import PAGES, ROOT, Command, commands

TESTS = (test_pages_of_evaluation, test_pages_of_models, test_pages_of_training)


@pytest.fixture(scope="module")
def everything() -> list[Command]:
    return [command for page in PAGES for command in commands(page)]


def test_each_page_with_commands_is_run_by_one_test(everything) -> None:
    run = [page for test in TESTS for page in test.PAGES]
    assert len(set(run)) == len(run)
    assert set(run) == {command.page for command in everything if becomes(command) == "run"}


def test_each_exception_is_of_a_command_that_is_printed(everything) -> None:
    assert set(EXCEPTIONS) <= {command.name for command in everything}, "remove those that are printed no more"
    assert all(reason.strip() for reason in EXCEPTIONS.values())


def test_another_test_reads_its_page(everything) -> None:
    for (page, language), test in ELSEWHERE.items():
        assert Path(page).name in (ROOT / test).read_text()
        assert any((each.page, each.language) == (page, language) for each in everything)


def test_what_is_not_run_exists(everything) -> None:
    """Subcommands and options, targets of make, scripts with their options, files and extras of installs."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    benchmarks = "".join(path.read_text() for path in sorted((ROOT / "benchmarks").glob("*.py")))
    for command in everything:
        if becomes(command).startswith("run") or command.language == "python":
            continue
        words = [word for word in shlex.split(command.text) if not re.match(r"[A-Z_]+=", word)]
        if words[0] == "flair-jax":
            assert not not_known(words[1:]), command
        elif words[0] == "make":
            assert words[1] in targets, command
        elif words[0] == "pip":
            files = [words[i + 1] for i, word in enumerate(words) if word == "-c"]
            assert all((ROOT / file).is_file() for file in files), command
            assert set(re.findall(r" \.\[(\w+)\]", " ".join(words))) <= set(extras), command
        elif script := next((word for word in words if word.endswith((".py", ".sh"))), None):
            assert (ROOT / script).is_file(), command
            options = [word for word in words if word.startswith("--") and script.startswith("benchmarks/")]
            assert all(f'"{option}"' in benchmarks for option in options), command


def test_the_table_of_all_commands_is_printed(capsys) -> None:
    main()
    printed = capsys.readouterr().out
    assert re.search(r"\d+ commands: \d+ run, \d+ only named, \d+ excepted", printed)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("```sh\na b  # c\n```\n", ["a b"]),
        ("```sh\na 'x # y' \\\n  c # d\n```\n", ["a 'x # y' \\\n  c"]),
        ("```sh\nfor n in 0 1; do\n  a $n &\ndone; wait\nb\n```\n", ["for n in 0 1; do\n  a $n &\ndone; wait", "b"]),
        ("Use `make x` (`flair-jax\nplan -x`); `flair_jax.load` is none.", ["make x", "flair-jax plan -x"]),
        ("`A=b python x.py` and `launch/a.sh b`", ["A=b python x.py", "launch/a.sh b"]),
        ("```python title=\"x.py\"\na = 1\n```\n", ["a = 1\n"]),
        ("```\nflair-jax: error\n```\n", []),
    ],
)  # fmt: skip
def test_what_is_a_command(text: str, found: list[str]) -> None:
    assert [command.text for command in commands("page.md", text)] == found


def test_what_a_block_prints_belongs_to_its_last_command() -> None:
    first, second = commands("page.md", "```sh\na\nb\n```\n\n```\n1\n```\n")
    assert (first.printed, second.printed) == ("", "1\n")


def test_a_command_that_is_not_whole_is_an_error() -> None:
    with pytest.raises(AssertionError, match="does not end"):
        commands("page.md", "```sh\nfor n in 0 1; do\n```\n")


def test_a_wrong_option_is_found() -> None:
    assert not_known(["evaluate", "--data-dir", "x", "--dataset=coco"]) == []
    assert not_known(["evaluate", "--datadir", "x"]) == ["--datadir"]
    assert not_known(["evaluat"]) == ["evaluat"]
    assert not_known(["train", "--config=x", "--config.steps=3"]) == []
