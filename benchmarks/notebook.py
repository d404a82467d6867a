"""Runs `examples/quickstart.ipynb` anew, in an empty folder, and keeps in it what the cells show.

    python benchmarks/notebook.py

Needs the extra `notebook`. Progress bars, times and versions are not kept: they differ from run to run.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import nbclient
import nbformat

from flair_jax.console import quiet_without_tpu

NOTEBOOK = Path(__file__).parents[1] / "examples/quickstart.ipynb"


def run(folder: Path, timeout: int = 300) -> nbformat.NotebookNode:
    """The notebook as it is after all cells have run.

    Args:
      folder: where they run; what they write is left there.
      timeout: seconds for a cell.

    Raises:
      nbclient.exceptions.CellExecutionError: if a cell fails.
    """
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    # IPython and Jupyter keep a history, profiles and sockets in folders of the user's.
    own = {name: str(folder / ".jupyter") for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR")}
    where = {"metadata": {"path": str(folder)}}
    client = nbclient.NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources=where, record_timing=False
    )
    with client.setup_kernel(env={**os.environ, **quiet_without_tpu(), **own}):
        for number, cell in enumerate(notebook.cells):
            client.execute_cell(cell, number)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [each for each in cell.outputs if each.get("name") != "stderr"]
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> None:
    """Runs it and writes it back."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        notebook = run(Path(folder))
    nbformat.write(notebook, NOTEBOOK)
    print(f"{NOTEBOOK}: {NOTEBOOK.stat().st_size / 1e3:,.0f} kB")


if __name__ == "__main__":
    main()
