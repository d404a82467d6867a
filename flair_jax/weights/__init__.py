"""Weights that others wrote: files, archives, the hub, and the table that names their tensors."""
