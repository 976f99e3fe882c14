"""One command a file, each to be read from top to bottom."""
