"""Making data sets from what people download: tars with captions attached, TFDS builds, and what was left out."""
