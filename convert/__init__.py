"""Weights of the PyTorch release in, and back out.

`param_map`, the modules that read files, and `hub` lie below `flair_jax.checkpoint`, which reads with them; `transfer`,
`folder` and `stablehlo_export` stand on it.
"""
