"""Made data: a spoken corpus and sound to pre-train on."""
