"""Measurements of speed and memory; each file is a command."""
