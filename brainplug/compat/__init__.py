"""Where other packages need a hand: torchaudio's optional extension, and files of other projects."""
