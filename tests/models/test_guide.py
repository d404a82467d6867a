"""The code in docs/model.md runs as printed."""

import re
from pathlib import Path

GUIDE = Path(__file__).parent.parent.parent / "docs" / "model.md"


def test_the_guides_code() -> None:
    blocks = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 3
    assert [names[name].shape for name in ("image", "local", "pooled", "weights", "logits")] == [
        *((2, 64), (2, 16, 64), (2, 3, 64), (2, 8, 3, 17), (2, 3))
    ]
    assert set(names["params"]["vision"]) == {"Dense_0"}
