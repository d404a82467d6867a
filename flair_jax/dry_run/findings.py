"""What a dry run finds: facts that are printed at once, remarks, and problems, all of which are kept for the end."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from flair_jax.console import in_one_sentence
from flair_jax.errors import plural, printable

_WIDTH = 15


class Findings:
    """The facts, remarks and problems.

    Attributes:
      facts: (what, words), in order.
      remarks: what is no problem, but should be known.
      problems: each one sentence; training would fail of them.
    """

    def __init__(self) -> None:
        """Nothing is found yet."""
        self.facts: list[tuple[str, str]] = []
        self.remarks: list[str] = []
        self.problems: list[str] = []

    def say(self, what: str, words: str) -> None:
        """Prints a fact."""
        self.facts.append((what, words))
        print(f"{what:<{_WIDTH}} {printable(words)}", flush=True)

    def remark(self, words: str) -> None:
        """Prints a remark."""
        self.remarks.append(words)
        print(f"{'':<{_WIDTH}} note: {printable(words)}", flush=True)

    def problem(self, what: str, words: str) -> None:
        """Prints a problem; the same one is kept once."""
        words = " ".join(words.split()) if "\n" not in words else words.strip()
        if words not in self.problems:
            self.problems.append(words)
            print(f"{what:<{_WIDTH}} PROBLEM: {printable(words, keep=chr(10))}", flush=True)

    @contextlib.contextmanager
    def checking(self, what: str) -> Iterator[None]:
        """Turns an error in the block into a problem.

        One that no user can mend is raised, unless an earlier problem may well be its cause.
        """
        try:
            yield
        except Exception as error:
            sentence = in_one_sentence(error)
            if sentence is None and not self.problems:
                raise
            if sentence is not None:
                self.problem(what, sentence)

    def end(self) -> int:
        """Prints the summary, and returns the exit status: 0, or 1 if there are problems."""
        if not self.problems:
            notes = f" ({plural(len(self.remarks), 'note')} above)" if self.remarks else ""
            print(f"\ndry run: no problem found{notes}; leave --dry-run out to train", flush=True)
            return 0
        print(f"\ndry run: {plural(len(self.problems), 'problem')} to mend before training:", flush=True)
        for number, words in enumerate(self.problems, start=1):
            print(f"  {number}. {printable(words, keep=chr(10))}", flush=True)
        return 1
