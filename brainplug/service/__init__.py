"""A service over HTTP that classifies clips with many adapters; the command is ``brainplug serve``."""
