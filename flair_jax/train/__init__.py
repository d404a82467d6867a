"""Training: losses, the step, the loop, checkpoints and what watches over a run."""
