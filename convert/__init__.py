"""Weights of the PyTorch release in, and back out.

`param_map`, `files` and `hub` lie below `flair_jax.checkpoint`, which reads with them; the other modules stand on it.
"""
