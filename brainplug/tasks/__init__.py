"""Kinds of work, one file each."""
