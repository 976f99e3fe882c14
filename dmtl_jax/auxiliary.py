"""Losses that belong to one method (placeholder until its methods land)."""

LOSSES = {}
