"""Descriptions of the built-in measures; without torch."""
