import json

from flair_jax.cli import main


def test_the_demo_runs_without_torch(tmp_path, capsys, monkeypatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["demo", "--output", str(tmp_path / "demo")]) == 0
    printed = capsys.readouterr().out
    assert "RANDOM weights" in printed
    assert "The weights are random, so these scores are chance." in printed
    for mode in ("text-conditioned", "top-k", "global"):
        document = json.loads((tmp_path / "demo" / f"{mode}.json").read_text())
        assert document["settings"]["mode"] == mode
        assert 0 < document["metrics"]["text_to_image_mean_rank"] <= document["images"]
