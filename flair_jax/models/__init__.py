"""The FLAIR model as functional Flax (Linen) modules."""
