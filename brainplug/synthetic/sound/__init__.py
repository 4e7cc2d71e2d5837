"""Sound to pre-train on that a machine makes or has: spoken words, synthetic events, free recordings."""
