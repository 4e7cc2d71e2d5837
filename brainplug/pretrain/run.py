"""What both recipes of pre-training do before and after the training itself: sound, layers, results."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from speechbrain.utils.distributed import run_on_main
from transformers import PreTrainedModel, Wav2Vec2FeatureExtractor

from brainplug.errors import UsageError
from brainplug.files import write_json
from brainplug.pretrain.brain import PretrainBrain
from brainplug.pretrain.card import write_card
from brainplug.pretrain.corpus import Corpus, Crops, describe, list_audio, make_corpus
from brainplug.pretrain.data2vec import NORMAL_EPSILON
from brainplug.pretrain.labels import NONE, Features, agreement, phone_stream
from brainplug.synthetic.sound.render import INDEX_NAME, PHONES_NAME, render


@dataclass(frozen=True)
class Sound:
    """A corpus, a part of which measures progress.

    Arguments
    ---------
    corpus : Corpus
        All of it.
    held_out : int
        How many utterances, the last ones, nothing is trained on. Utterances stand in an order that was drawn.
    folder : str
        Where the files are.
    """

    corpus: Corpus
    held_out: int
    folder: str

    def crops(self, hparams: dict, batches: int, train: bool, labels: np.ndarray | None = None) -> Crops:
        """Batches of crops.

        Arguments
        ---------
        hparams : dict
            Needs ``clips``, ``crop_seconds`` and ``seed``.
        batches : int
            How many.
        train : bool
            Of the utterances to learn from, or of those that are held out.
        labels : np.ndarray, optional
            As in `Crops`.

        Returns
        -------
        Crops
            The batches.
        """
        utterances = slice(None, -self.held_out) if train else slice(-self.held_out, None)
        seed = hparams["seed"] if train else hparams["seed"] + 1
        return Crops(
            self.corpus, batches, hparams["clips"], hparams["crop_seconds"], seed, labels, utterances
        )  # fmt: skip

    def phones(self) -> np.ndarray | None:
        """A phone for each 320 samples, as `phone_stream` says it; None where the folder tells of none."""
        path = Path(self.folder, PHONES_NAME)
        if not path.is_file():
            return None
        said = {
            os.path.abspath(Path(self.folder, name)): [tuple(phone) for phone in clip["phones"]]
            for name, clip in json.loads(path.read_text()).items()
        }
        return phone_stream(self.corpus, said)[0]


def open_sound(hparams: dict) -> Sound:
    """Opens the sound to pre-train on: a folder's, or what the project makes itself.

    Arguments
    ---------
    hparams : dict
        Needs ``data_folder``, ``sound_folder``, ``sound``, ``corpus_folder``, ``crop_seconds``, ``held_out_share`` and
        ``seed``.

    Returns
    -------
    Sound
        Decoded, in one file.

    Raises
    ------
    UsageError
        There is too little sound.
    """
    folder = hparams["data_folder"]
    if folder is None:
        folder = hparams["sound_folder"]
        run_on_main(render, args=[folder], kwargs=hparams["sound"])
    settings = hparams["corpus_folder"], hparams["crop_seconds"], hparams["seed"]
    run_on_main(make_corpus, args=[list_audio(folder), *settings])
    corpus = make_corpus(list_audio(folder), *settings)  # from disk
    utterances = len(corpus.ends)
    held_out = max(1, round(hparams["held_out_share"] * utterances))
    if utterances < 2:
        raise UsageError(
            f"Sound to learn from, and other sound to measure progress, was asked for, below {folder!r}.",
            f"There is one utterance of at least {hparams['crop_seconds']:g} s.",
            "Name a folder with more sound, or write a smaller --crop_seconds",
        )
    return Sound(corpus, held_out, folder)


def layer_features(model: PreTrainedModel, layer: int, normalize: bool) -> Features:
    """What a layer makes of sound.

    Arguments
    ---------
    model : PreTrainedModel
        Of the wav2vec 2.0 family; it is set to evaluation.
    layer : int
        Which, from 1 on.
    normalize : bool
        Whether waveforms are brought to zero mean and unit variance.

    Returns
    -------
    Features
        Waveform ``[samples]`` to the layer's output ``[frames, dim]``.

    Raises
    ------
    UsageError
        The model has fewer layers.
    """
    layers = model.config.num_hidden_layers
    if not 1 <= layer <= layers:
        raise UsageError(
            f"Clusters of layer {layer} were asked for.",
            f"The model has {layers}.",
            f"Write a layer from 1 to {layers}",
        )
    model.eval()

    def features(waveform: torch.Tensor) -> torch.Tensor:
        waveform = waveform[None].to(model.device)
        if normalize:
            waveform = torch.nn.functional.layer_norm(waveform, waveform.shape[1:], eps=NORMAL_EPSILON)
        return model(waveform, output_hidden_states=True).hidden_states[layer][0].cpu()

    return features


def agreements(sound: Sound, features: dict[str, Features], clusters: int, seed: int) -> dict[str, dict] | None:
    """How well clusters of features agree with phones on what was held out, all with one number of clusters.

    Arguments
    ---------
    sound : Sound
        The corpus.
    features : dict[str, Features]
        Name -> what is clustered.
    clusters, seed : int
        As in `agreement`.

    Returns
    -------
    dict[str, dict] | None
        Name -> what `agreement` returns; None where no phones are known.
    """
    phones = sound.phones()
    if phones is None or (phones == NONE).all():
        return None
    utterances = len(sound.corpus.ends)
    held_out = range(utterances - sound.held_out, utterances)
    return {name: agreement(sound.corpus, each, phones, held_out, clusters, seed) for name, each in features.items()}


def finish(
    brain: PretrainBrain, hparams: dict, sound: Sound, normalize: bool, others: dict[str, Features], **more: object
) -> None:
    """Writes the model as transformers' own files, its card and pretraining.json, which says that all is done.

    Arguments
    ---------
    brain : PretrainBrain
        After training.
    hparams : dict
        The run's settings.
    sound : Sound
        What it heard.
    normalize : bool
        As the feature extractor says it.
    others : dict[str, Features]
        What stands beside the layers where clusters are compared with phones.
    **more : object
        What else pretraining.json says.
    """
    model = brain.pretraining.model.cpu().eval()
    export(model, hparams["model_folder"], normalize)
    layers = {f"layer {n + 1}": layer_features(model, n + 1, normalize) for n in range(model.config.num_hidden_layers)}
    last = brain.log.rows[-1] if brain.log.rows else {}
    results = {
        "family": model.config.model_type,
        "seed": hparams["seed"],
        "steps": brain.optimizer_step,
        "minutes": last.get("minutes"),
        "updates_a_second": _mean(brain, "updates_a_second"),
        "share_waiting_for_data": _mean(brain, "share_waiting_for_data"),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "seconds_a_batch": hparams["clips"] * hparams["crop_seconds"],
        "valid": brain.log.valid,
        "alarms_at_the_end": [str(alarm) for alarm in brain.ringing()],
        "agreement_with_phones": agreements(sound, {**others, **layers}, hparams["compared_clusters"], hparams["seed"]),
        "compared_clusters": hparams["compared_clusters"],
        "corpus": describe(sound.corpus),
        "sound": _index(sound.folder),
        **more,
    }
    write_card(hparams["model_folder"], results, brain.log.rows)
    write_json(results, f"{hparams['output_folder']}/pretraining.json")


def _mean(brain: PretrainBrain, name: str) -> float | None:
    return float(np.mean([row[name] for row in brain.log.rows])) if brain.log.rows else None


def _index(folder: str) -> dict | None:
    path = Path(folder, INDEX_NAME)
    return json.loads(path.read_text()) if path.is_file() else None


def export(model: PreTrainedModel, folder: str, normalize: bool) -> None:
    """Writes a model as transformers' own files, in half precision, with its feature extractor.

    Arguments
    ---------
    model : PreTrainedModel
        Any.
    folder : str
        Where ``config.json``, ``model.safetensors`` and ``preprocessor_config.json`` go.
    normalize : bool
        Whether the feature extractor brings clips to zero mean and unit variance.
    """
    Path(folder).mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    config = json.loads(Path(folder, "config.json").read_text())
    config["architectures"] = [type(model).__name__]
    config["attn_implementation"] = model.config._attn_implementation  # transformers reads it, but does not write it
    write_json(config, Path(folder, "config.json"))
    halves = {name: value.half().contiguous() for name, value in model.state_dict().items()}
    save_file(halves, Path(folder, "model.safetensors.new"), metadata={"format": "pt"})
    os.replace(Path(folder, "model.safetensors.new"), Path(folder, "model.safetensors"))
    Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=normalize).save_pretrained(folder)


def pretrain(brain: PretrainBrain, hparams: dict, sound: Sound, labels: np.ndarray | None = None) -> None:
    """Trains on the sound.

    Arguments
    ---------
    brain : PretrainBrain
        Of either objective.
    hparams : dict
        The run's settings.
    sound : Sound
        What it hears.
    labels : np.ndarray, optional
        As in `Crops`.
    """
    processes = torch.distributed.get_world_size() if brain.distributed_launch else 1
    batches = brain.total_steps * brain.grad_accumulation_factor * processes
    train = sound.crops(hparams, batches, train=True, labels=labels)
    brain.pretrain(train, sound.crops(hparams, hparams["valid_batches"], train=False, labels=labels))


def is_finished(hparams: dict) -> bool:
    """Whether a run was made to its end before."""
    return Path(hparams["output_folder"], "pretraining.json").is_file()


def changes_of(changes: dict, overrides: str) -> str:
    r"""What one of several runs changes in a recipe, beside what the command line does; the latter has the last word.

    Arguments
    ---------
    changes : dict
        Key -> value.
    overrides : str
        As `brainplug.config.recipe.parse_arguments` returns them.

    Returns
    -------
    str
        The same kind of text.

    Example
    -------
    >>> changes_of({"iteration": 2, "seed": 1}, "seed: 3")
    'iteration: 2\nseed: 3'
    """
    given = {line.partition(":")[0] for line in overrides.splitlines()}
    own = [f"{key}: {json.dumps(value)}" for key, value in changes.items() if key not in given]
    return "\n".join([*own, *overrides.splitlines()])
