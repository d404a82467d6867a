"""How arrays are sharded over a mesh of devices, and how processes communicate."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flair_jax.lazy import public

if TYPE_CHECKING:
    from flair_jax.parallel.processes import ALONE as ALONE
    from flair_jax.parallel.processes import Processes as Processes
    from flair_jax.parallel.processes import check_cluster as check_cluster
    from flair_jax.parallel.processes import join_cluster as join_cluster
    from flair_jax.parallel.sharding import AXES as AXES
    from flair_jax.parallel.sharding import BATCH as BATCH
    from flair_jax.parallel.sharding import batch_sharding as batch_sharding
    from flair_jax.parallel.sharding import check_batch as check_batch
    from flair_jax.parallel.sharding import data_mesh as data_mesh
    from flair_jax.parallel.sharding import global_batch as global_batch
    from flair_jax.parallel.sharding import make_mesh as make_mesh
    from flair_jax.parallel.sharding import replicate as replicate
    from flair_jax.parallel.sharding import shardings as shardings
else:
    __getattr__, __dir__, __all__ = public(
        __name__,
        {
            "processes": ["ALONE", "Processes", "check_cluster", "join_cluster"],
            "sharding": [
                "AXES",
                "BATCH",
                "batch_sharding",
                "check_batch",
                "data_mesh",
                "global_batch",
                "make_mesh",
                "replicate",
                "shardings",
            ],
        },
    )
