"""The adapter file."""
