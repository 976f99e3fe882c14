"""Readers of what labelling tools export, and the writer of our folder layout (datasets/folder)."""
