"""Weights and images to maps and scores."""
