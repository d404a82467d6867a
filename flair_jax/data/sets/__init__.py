"""Data sets by name: what is on disk in which layout, and what evaluation and training read of it."""
