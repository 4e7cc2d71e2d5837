"""Adapted models and their heads."""
