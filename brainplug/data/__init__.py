"""Corpora, manifests, features and the pipeline that carries a clip from its file to the backbone."""
