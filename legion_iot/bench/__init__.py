"""Reproducible comparisons: each prints a table, or one JSON object, and fails where a promise is not held."""
