"""Exports a pre-trained model as transformers' own files."""

import json
from pathlib import Path

from safetensors.torch import save_file
from transformers import PreTrainedModel, SequenceFeatureExtractor

from brainplug.files import replace, write_json


def export_model(model: PreTrainedModel, extractor: SequenceFeatureExtractor, folder: str) -> None:
    """Writes ``config.json``, ``model.safetensors`` in half precision and ``preprocessor_config.json``."""
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    config["architectures"] = [type(model).__name__]
    config["dtype"] = "float32"  # transformers would compute in half precision, as the weights are stored
    config["attn_implementation"] = model.config._attn_implementation  # transformers reads it, but does not write it
    write_json(config, path / "config.json")
    weights = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(weights, path / "model.safetensors.new", metadata={"format": "pt"})
    replace(path / "model.safetensors.new", path / "model.safetensors")
    extractor.save_pretrained(path)
