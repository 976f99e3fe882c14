"""TFDS builders, one folder a data set."""
