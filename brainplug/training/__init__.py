"""SpeechBrain's training loop for adapted models."""
