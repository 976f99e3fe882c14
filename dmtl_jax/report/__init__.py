"""Runs compared, as tables and one page."""
