"""The commands of `flair-jax`, a module each, with a function `add`. What a command needs is imported when it runs."""
