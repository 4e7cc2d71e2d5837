"""Recipes: files, overrides, schemas, output folders."""
