"""The commands of `flair-jax`: one module each, with a function `add`. A command imports what it needs when it runs."""
