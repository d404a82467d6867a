"""Every command of the documents: lines of shell blocks, blocks of Python, and commands in running text."""

import re
import subprocess
import textwrap
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "launch/README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))))

# A command in running text begins with one of these, after variables that are set for it alone.
_PROGRAMS = (
    r"flair-jax|python|make|pip|hf|cp|gcloud|aws|ssh|docker|xpk|sbatch|scancel|tensorboard|tfds|jupyter|\S+/python"
)
_IN_TEXT = re.compile(rf"(?:[A-Z_]+=\S+ )*(?:{_PROGRAMS}|\S+/python|launch/\S+\.sh)(?: |$)")
_FENCE = re.compile(r"^( *)```(.*)\n((?:.*\n)*?)\1```$", re.MULTILINE)


class Command(NamedTuple):
    """One that a reader would paste.

    Attributes:
      page: its document.
      language: "sh", "python" or "text", of running text.
      text: as it is printed, without comments behind it; a block of Python whole.
      title: of a block that is a file, or is added to one, the file's name.
      printed: of a shell block's last command, what the document says that the block prints.
      block: number of its block, from 1; 0 in running text.
    """

    page: str
    language: str
    text: str
    title: str = ""
    printed: str = ""
    block: int = 0

    @property
    def name(self) -> str:
        """By which tables call it: of a block that is not a command, its page and first line."""
        return f"{self.page}: {self.text.splitlines()[0]}" if self.language == "python" or self.title else self.text


def commands(page: str, text: str | None = None) -> list[Command]:
    """All commands of a document, in its order."""
    text = (ROOT / page).read_text() if text is None else text
    found, end = [], 0
    for block, fence in enumerate(_FENCE.finditer(text), start=1):
        between, end = text[end : fence.start()], fence.end()
        language, code = fence[2].partition(" ")[0], textwrap.dedent(fence[3])
        title = re.search(r'title="(.+?)"', fence[2]) or re.match(r"# (\w+\.py)\n", code)
        if not language and len(between.split()) < 4 and found and found[-1].language == "sh":
            found[-1] = found[-1]._replace(printed=code)
        found += _in_text(page, between)
        if language == "python" or (language == "sh" and title):
            found.append(Command(page, language, code, title[1] if title else ""))
        elif language == "sh":
            found += [Command(page, "sh", line, block=block) for line in _lines(code)]
        else:
            assert language in ("", "json"), f"{page}: a block of {language}: how would it be run?"
    return found + _in_text(page, text[end:])


def _in_text(page: str, text: str) -> list[Command]:
    quoted = (" ".join(each.split()) for each in re.findall(r"(?<!`)`([^`]+)`(?!`)", text))
    return [Command(page, "text", each) for each in quoted if _IN_TEXT.match(each)]


def _lines(block: str) -> list[str]:
    """The commands of a shell block, each whole: a loop is one."""
    found, held = [], ""
    for line in block.splitlines():
        held += ("\n" if held else "") + _without_comment(line)
        if not held or held.endswith("\\") or not _is_whole(held):
            continue
        found.append(held)
        held = ""
    assert not held, f"this does not end: {held}"
    return found


def _without_comment(line: str) -> str:
    quote = ""
    for place, character in enumerate(line):
        if character in "'\"" and quote in ("", character):
            quote = "" if quote else character
        elif character == "#" and not quote and (not place or line[place - 1].isspace()):
            return line[:place].rstrip()
    return line.rstrip()


def _is_whole(text: str) -> bool:
    if not re.search(r"['\"(]|\b(for|while|if|do)\b", text):
        return True
    return not subprocess.run(["bash", "-n", "-c", text], capture_output=True, check=False).returncode
