"""README's Python, and what it says that this prints."""

import re
from pathlib import Path

import numpy as np

_README = (Path(__file__).parent.parent / "README.md").read_text()
[SAMPLE] = re.findall(r"```python\n(.*?)```", _README, re.DOTALL)
[(_LOGITS, _SHAPES)] = re.findall(r"This prints two logits, (\S+ and \S+) \([^`]*`([^`]*)`", _README)


def check_shapes(printed: str) -> list[float]:
    """Checks the shapes that the sample printed; returns the logits, which are README's for its picture only."""
    logits, _, shapes = printed.strip().partition("]] ")
    assert shapes == _SHAPES
    return [float(each) for each in logits.strip("[").split()]


def check_printed(printed: str) -> None:
    """Checks all of it, the logits to README's two decimals, and a bit for other processors."""
    found = check_shapes(printed)
    np.testing.assert_allclose(found, [float(each) for each in _LOGITS.split(" and ")], rtol=0, atol=0.02)
