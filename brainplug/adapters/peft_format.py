"""Adapters as peft names them, so that peft loads what was trained here, and its own adapters load here."""

import json
from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue

from brainplug.adapters.layout import HEADER_KEY
from brainplug.adapters.probe import Tensors
from brainplug.methods import Method
from brainplug.models.adapted import AdaptedModel

OWN, PEFT = "backbone.model.", "base_model.model."  # before the path of a tensor in the backbone's model


def peft_values(model: AdaptedModel) -> dict[str, Any]:
    """What peft's own ``adapter_config.json`` says of a model; nothing where peft lacks the method or the backbone."""
    backbone = model.backbone
    config = model.method.as_peft(backbone.model, backbone.spec) if backbone.works_with_peft else None
    if config is None:
        return {}
    norm = backbone.spec.final_norm
    saves_norm = norm is not None and f"{OWN}{norm}.weight" in model.delta()
    values = {**config.to_dict(), "modules_to_save": [norm] if saves_norm else None}
    # Peft takes the modules whose paths end like the norm's for saved ones, and does not adapt them.
    if saves_norm and any(path.endswith(str(norm)) for path in values["target_modules"]):
        return {}
    values |= {"base_model_name_or_path": backbone.name, "inference_mode": True}
    return dict(
        json.loads(json.dumps(values, default=lambda value: sorted(value) if isinstance(value, set) else str(value)))
    )


def stored_names(model: AdaptedModel) -> dict[str, str]:
    """Own name -> peft's name of each trained tensor of the backbone."""
    return {
        name: PEFT + model.method.peft_name(name.removeprefix(OWN)) for name in model.delta() if name.startswith(OWN)
    }


def backbone_copies(model: AdaptedModel, values: Mapping[str, Any]) -> Tensors:
    """The backbone's tensors that peft wants beside a trained module: those of all modules whose paths end like its."""
    endings = tuple(values["modules_to_save"] or ())
    copies: Tensors = {}
    for path, module in model.backbone.model.named_modules():
        if endings and path.endswith(endings) and path not in endings:
            copies |= {f"{PEFT}{path}.{name}": tensor for name, tensor in module.state_dict().items()}
    return copies


def own_names(weights: Tensors, values: Mapping[str, JsonValue], method: Method) -> Tensors:
    """The tensors of a file by the names that they have here, without `backbone_copies`."""
    saved = values.get("modules_to_save")
    endings = tuple(map(str, saved)) if isinstance(saved, list) else ()
    own = {}
    for name, tensor in weights.items():
        path = name.removeprefix(PEFT)
        module = path.rpartition(".")[0]
        if HEADER_KEY in values and path != name and endings and module.endswith(endings) and module not in endings:
            continue
        own[OWN + method.own_name(path) if path != name else name] = tensor
    return own
