"""Splits, folds, few-shot draws and checks of data."""
