"""Whole tables: every cell is one run of the main job, here or on a cluster."""
