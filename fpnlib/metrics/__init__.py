"""Scores, per kind of object."""
