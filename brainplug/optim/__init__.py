"""Optimisers and schedules. This room imports torch alone, so that anyone can use it."""
