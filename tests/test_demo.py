import json
import re
import subprocess
import sys
from pathlib import Path

from flair_jax.cli import main


def test_the_demo_runs_without_torch_and_the_readme_works_on_it(tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 0
    printed = capsys.readouterr().out
    assert "RANDOM weights" in printed
    assert "The weights are random, so these scores are chance." in printed
    for mode in ("text-conditioned", "top-k", "global"):
        document = json.loads((tmp_path / "demo" / f"{mode}.json").read_text())
        assert document["settings"]["mode"] == mode
        assert 0 < document["metrics"]["text_to_image_mean_rank"] <= document["images"]

    readme = (Path(__file__).parent.parent / "README.md").read_text()
    snippet = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    outcome = subprocess.run([sys.executable, "-c", snippet], cwd=tmp_path, capture_output=True, text=True, check=True)
    promised = re.search(r"this prints `([^`]*)`", readme)[1]
    numbers, said = (re.findall(r"-?\d+\.\d+", text) for text in (outcome.stdout, promised))
    assert len(numbers) == len(said) == 2
    # XLA's rounding differs between processors.
    assert all(abs(float(a) - float(b)) < 1e-3 for a, b in zip(numbers, said, strict=True))
    assert outcome.stdout.split("]] ")[1].strip() == promised.split("]] ")[1]
