"""Pictures of runs: every function takes plain data and writes a PNG."""
