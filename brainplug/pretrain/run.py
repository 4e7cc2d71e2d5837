"""A pre-training run: its audio, the training, and the exported model with its results and card."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import speechbrain as sb
import torch
from speechbrain.utils.distributed import if_main_process, run_on_main
from transformers import PreTrainedModel, Wav2Vec2FeatureExtractor

from brainplug.config.output_folder import check_output_folder
from brainplug.config.recipe import Recipe
from brainplug.errors import ConfigError, DataError
from brainplug.files import read_json, write_json
from brainplug.pretrain.brain import PretrainBrain
from brainplug.pretrain.card import write_card
from brainplug.pretrain.corpus import Corpus, Crops, describe, list_audio, make_corpus
from brainplug.pretrain.data2vec import NORMAL_EPSILON
from brainplug.pretrain.export import export_model
from brainplug.pretrain.labels import NO_LABEL, Features, agreement, phone_stream
from brainplug.pretrain.schema import MaskedSettings
from brainplug.synthetic.sound.render import INDEX_NAME, PHONES_NAME, render

RESULTS_NAME = "pretraining.json"


@dataclass(frozen=True)
class SplitCorpus:
    """A corpus whose last utterances are held out to measure progress; utterances lie in random order."""

    corpus: Corpus
    held_out: int  # number of utterances
    audio_folder: str

    def crops(self, settings: MaskedSettings, batches: int, train: bool, labels: np.ndarray | None = None) -> Crops:
        """Batches of crops of the utterances to train on, or of those held out; labels are as in `Crops`."""
        utterances = slice(None, -self.held_out) if train else slice(-self.held_out, None)
        seed = settings.seed if train else settings.seed + 1
        size, seconds = settings.batch_size, settings.crop_seconds
        return Crops(self.corpus, batches, size, seconds, seed, labels, utterances)

    def phones(self) -> np.ndarray | None:
        """The phone of each frame, from `phone_stream`; None where the folder lists no phones."""
        path = Path(self.audio_folder, PHONES_NAME)
        if not path.is_file():
            return None
        phones = {
            os.path.abspath(Path(self.audio_folder, name)): [(start, phone) for start, phone in clip["phones"]]
            for name, clip in read_json(path).items()
        }
        stream, _ = phone_stream(self.corpus, phones)
        return None if (stream == NO_LABEL).all() else stream


def begin_run(recipe: Recipe[Any]) -> SplitCorpus | None:
    """Makes the output folder and opens the audio; None where the run was finished before."""
    settings = recipe.settings
    check_output_folder(recipe, settings.output_folder, settings.save_folder)
    if Path(settings.output_folder, RESULTS_NAME).is_file():
        return None
    sb.create_experiment_directory(settings.output_folder, recipe.file, recipe.overrides_text())
    return open_audio(settings)


def open_audio(settings: MaskedSettings) -> SplitCorpus:
    """Decodes the audio of ``data_folder``, or of the synthetic corpus where that is None."""
    folder = settings.audio_folder
    if settings.data_folder is None:
        run_on_main(render, args=[folder], kwargs=settings.sound)
    arguments = settings.corpus_folder, settings.crop_seconds, settings.seed
    run_on_main(make_corpus, args=[list_audio(folder), *arguments])
    corpus = make_corpus(list_audio(folder), *arguments)  # from disk
    utterances = len(corpus.ends)
    if utterances < 2:
        raise DataError(
            f"Audio to train on, and other audio to measure progress, was asked for, below {folder!r}.",
            f"There is one utterance of at least {settings.crop_seconds:g} s.",
            "Name a folder with more audio, or write a smaller --crop_seconds",
        )
    return SplitCorpus(corpus, max(1, round(settings.valid_fraction * utterances)), folder)


def layer_features(model: PreTrainedModel, layer: int, normalize: bool) -> Features:
    """A function that maps a waveform ``[samples]`` to the output ``[frames, dim]`` of a layer, counted from 1.

    The model is set to evaluation mode; `normalize` brings waveforms to mean 0 and variance 1.
    """
    layers = model.config.num_hidden_layers
    if not 1 <= layer <= layers:
        raise ConfigError(
            f"Clusters of layer {layer} were asked for.",
            f"The model has {layers} layers.",
            f"Write a layer from 1 to {layers}",
        )
    model.eval()

    def features(waveform: torch.Tensor) -> torch.Tensor:
        waveform = waveform[None].to(model.device)
        if normalize:
            waveform = torch.nn.functional.layer_norm(waveform, waveform.shape[1:], eps=NORMAL_EPSILON)
        return model(waveform, output_hidden_states=True).hidden_states[layer][0].cpu()

    return features


def train_and_export(
    brain: PretrainBrain,
    audio: SplitCorpus,
    compared: Mapping[str, Features],
    facts: Mapping[str, object],
    labels: np.ndarray | None = None,
) -> None:
    """Trains, then writes the model as transformers' own files, its card and ``pretraining.json``.

    Arguments
    ---------
    compared : Mapping[str, Features]
        Name -> features that are compared with phones beside the model's layers.
    facts : Mapping[str, object]
        Settings that the card lists.
    labels : np.ndarray, optional
        As in `Crops`.
    """
    settings = brain.settings
    processes = torch.distributed.get_world_size() if brain.distributed_launch else 1
    batches = brain.total_steps * brain.grad_accumulation_factor * processes
    train = audio.crops(settings, batches, train=True, labels=labels)
    brain.pretrain(train, audio.crops(settings, settings.valid_batches, train=False, labels=labels))
    if if_main_process():
        model, normalize = settings.model.cpu().eval(), brain.normalize
        extractor = Wav2Vec2FeatureExtractor(do_normalize=normalize, return_attention_mask=normalize)
        export_model(model, extractor, settings.model_folder)
        layers = range(1, model.config.num_hidden_layers + 1)
        own = {f"layer {layer}": layer_features(model, layer, normalize) for layer in layers}
        results = {**_results(brain), **_audio_results(audio, settings, {**compared, **own}), "settings": dict(facts)}
        write_card(settings.model_folder, results, brain.log.rows)
        write_json(results, Path(settings.output_folder, RESULTS_NAME))


def _results(brain: PretrainBrain) -> dict[str, Any]:
    settings, rows = brain.settings, brain.log.rows

    def mean(name: str) -> float | None:
        return float(np.mean([row[name] for row in rows])) if rows else None

    return {
        "family": settings.model.config.model_type,
        "seed": settings.seed,
        "steps": brain.optimizer_step,
        "minutes": rows[-1]["minutes"] if rows else None,
        "updates_per_second": mean("updates_per_second"),
        "data_wait_fraction": mean("data_wait_fraction"),
        "parameters": sum(parameter.numel() for parameter in settings.model.parameters()),
        "seconds_per_batch": settings.batch_size * settings.crop_seconds,
        "valid": brain.log.valid,
        "alarms_at_the_end": [str(alarm) for alarm in brain.ringing()],
    }


def _audio_results(audio: SplitCorpus, settings: MaskedSettings, features: dict[str, Features]) -> dict[str, Any]:
    """The corpus, and how well clusters of features agree with the phones of held-out utterances, where known."""
    phones, utterances, clusters = audio.phones(), len(audio.corpus.ends), settings.compared_clusters
    held_out = range(utterances - audio.held_out, utterances)
    index = Path(audio.audio_folder, INDEX_NAME)
    return {
        "agreement_with_phones": None if phones is None else {
            name: agreement(audio.corpus, function, phones, held_out, clusters, settings.seed)
            for name, function in features.items()
        },
        "compared_clusters": clusters,
        "corpus": describe(audio.corpus),
        "sound": read_json(index) if index.is_file() else None,
    }  # fmt: skip
