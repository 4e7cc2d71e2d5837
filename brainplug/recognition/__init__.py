"""Speech recognition: adapted backbones that write down, character by character, what is said (CTC)."""
