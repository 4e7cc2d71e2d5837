"""What a run of recognition leaves behind: results.json, transcripts.csv, and what describes its adapter."""

from collections import Counter
from collections.abc import Sequence

from brainplug.data.characters import Characters
from brainplug.data.manifest import Clip, write_table
from brainplug.models.adapted import AdaptedModel
from brainplug.results.report import describe_method, describe_run, method_name
from brainplug.training.recognition import RecognitionBrain

TRANSCRIPTS = "transcripts.csv"


def describe_recogniser(model: AdaptedModel, hparams: dict, characters: Characters) -> dict:
    """What one has to know of an adapter to recognise speech with it: it stands beside the weights.

    Arguments
    ---------
    model : AdaptedModel
        The adapted model.
    hparams : dict
        The loaded recipe.
    characters : Characters
        The vocabulary.

    Returns
    -------
    dict
        JSON values.
    """
    return {
        **describe_method(model, model.method, hparams),
        "characters": characters.symbols,
        "decoding": hparams["decoding"],
        "beam_size": hparams["beam_size"],
    }


def collect_results(
    brain: RecognitionBrain, hparams: dict, clips: Sequence[Clip], skipped: int, tested: dict[str, dict[str, float]]
) -> dict:
    """Everything that results.json says of a run.

    Arguments
    ---------
    brain : RecognitionBrain
        After the test.
    hparams : dict
        The loaded recipe.
    clips : Sequence[Clip]
        Those that were used.
    skipped : int
        How many were set aside.
    tested : dict[str, dict[str, float]]
        What `RecognitionBrain.test_epochs` returned.

    Returns
    -------
    dict
        JSON values. Error rates are shares; ``test_wer`` is that of the best validation epoch.
    """
    splits, best, last = Counter(clip.split for clip in clips), tested["best"], tested["last"]
    return {
        **describe_run(brain, hparams),
        **{f"n_{split}": splits[split] for split in ("train", "valid", "test")},
        "n_skipped": skipped,
        "n_characters": len(brain.characters) - 1,
        "frozen_updates": hparams["frozen_updates"],
        "updates": brain.total_steps,
        "decoding": hparams["decoding"],
        "beam_size": hparams["beam_size"],
        "best_epoch": best["epoch"],
        "valid_wer": best["valid_WER"],
        "valid_cer": best["valid_CER"],
        "test_wer": best["test_WER"],
        "test_cer": best["test_CER"],
        "test_wer_last_epoch": last["test_WER"],
        "test_cer_last_epoch": last["test_CER"],
    }


def write_transcripts(brain: RecognitionBrain, clips: Sequence[Clip], folder: str) -> None:
    """Writes ``transcripts.csv``: what the last test wrote down of each clip.

    Arguments
    ---------
    brain : RecognitionBrain
        After the test.
    clips : Sequence[Clip]
        All clips of the run.
    folder : str
        The run's output folder.
    """
    paths = {clip.id: clip.path for clip in clips}
    rows = [(name, paths[name], said, written, f"{wer:.4f}") for name, said, written, wer in brain.transcripts()]
    write_table(f"{folder}/{TRANSCRIPTS}", ["id", "path", "reference", "hypothesis", "wer"], rows)


def summary(results: dict, output_folder: str) -> str:
    """The short table at the end of a run.

    Arguments
    ---------
    results : dict
        As in results.json.
    output_folder : str
        Where the files are.

    Returns
    -------
    str
        One row a fact.

    Example
    -------
    >>> results = {"dataset": "spoken", "n_test": 10, "n_skipped": 0, "backbone": "hubert", "method": "linear",
    ...     "decoding": "greedy", "best_epoch": 3, "epochs": 4, "test_wer": 0.5, "test_cer": 0.2, "valid_wer": 0.4,
    ...     "valid_cer": 0.1, "test_wer_last_epoch": 0.6, "test_cer_last_epoch": 0.3, "trainable": 10, "total": 100,
    ...     "seconds": 5.0, "peak_memory_bytes": 10**9}
    >>> "WER 50.00 %, CER 20.00 % (epoch 3, best in validation)" in summary(results, "results")
    True
    """

    def rates(kind: str, suffix: str = "") -> str:
        return f"WER {100 * results[f'{kind}_wer{suffix}']:.2f} %, CER {100 * results[f'{kind}_cer{suffix}']:.2f} %"

    rows = [
        ("data", f"{results['dataset']}: {results['n_test']} test clips; {results['n_skipped']} clips were set aside"),
        ("model", f"{results['backbone']} with {method_name(results)}, {results['decoding']} decoding"),
        ("test", f"{rates('test')} (epoch {results['best_epoch']}, best in validation)"),
        ("  beside it", f"{rates('test', '_last_epoch')} (epoch {results['epochs']}, the last)"),
        ("valid", rates("valid")),
        ("trainable", f"{results['trainable']:,} parameters, {results['trainable'] / results['total']:.2%} of all"),
        ("time", f"{results['seconds']:.0f} s"),
        ("peak memory", f"{results['peak_memory_bytes'] / 1e9:.2f} GB"),
        ("files", output_folder),
    ]
    return "\n".join(f"{name:<16}{value}" for name, value in rows)
