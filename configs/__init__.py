"""Training runs as `ml_collections` configurations: each module has a `get_config()`. Imports nothing else."""
