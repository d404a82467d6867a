"""Parquet files as `datasets` writes them."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_parquet(path: Path, images: list, captions: list, column: str = "caption", groups: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": images, column: captions}), path, row_group_size=groups)
