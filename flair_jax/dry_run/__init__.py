"""Training rehearsed: all that a run needs is looked at, nothing is trained, nothing written to its folder."""
