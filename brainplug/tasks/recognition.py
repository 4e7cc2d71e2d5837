"""What the tasks that transcribe speech share: their keys, their results, their files."""

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import PositiveInt
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.utils.distributed import if_main_process

from brainplug.adapters.description import RecognizerDescription
from brainplug.config.recipe import Recipe
from brainplug.data.characters import Characters, choose_characters
from brainplug.data.manifest import Clip, write_table
from brainplug.data.transcripts import list_transcribed, make_transcribed_datasets, write_skipped
from brainplug.models.adapted import AdaptedModel
from brainplug.tasks.base import RunComponents, RunData, Task, brain_hparams, clip_reader, list_run_clips
from brainplug.tasks.results import describe_method, summary_text
from brainplug.tasks.settings import TaskSettings
from brainplug.training.brain import Tested
from brainplug.training.recognition import RecognitionBrain

TRANSCRIPTS = "transcripts.csv"


class RecognitionSettings(TaskSettings):
    """The keys of a recipe that transcribes speech."""

    characters: str | None
    long_clips: Literal["refuse"] = "refuse"  # a part of a clip has another transcript
    decoding: Literal["greedy", "beam"]
    beam_size: PositiveInt


R = TypeVar("R", bound=RecognitionSettings)


class Recognition(Task[R, Characters]):
    """Transcribes speech, character by character; a subclass says how."""

    kind: ClassVar[Literal["ctc", "seq2seq"]]  # of the adapter
    brain: ClassVar[type[RecognitionBrain]]
    placeholder = Characters("ab")

    def list_clips(self, settings: R, components: RunComponents[Characters]) -> list[Clip]:
        """The checked clips, with normalised transcripts."""
        list_clips = partial(list_transcribed, components.list_clips, settings.characters)
        return list_run_clips(settings, list_clips, components.backbone)

    def find_outputs(self, settings: R, clips: Sequence[Clip]) -> Characters:
        """The characters that the recipe names, or those of the training transcripts."""
        return choose_characters(settings.characters, clips)

    def make_datasets(
        self, settings: R, components: RunComponents[Characters], clips: Sequence[Clip], outputs: Characters
    ) -> dict[str, DynamicItemDataset]:
        """Signals with their texts and the numbers of their characters."""
        return make_transcribed_datasets(clips, outputs, clip_reader(settings, components))

    def make_brain(
        self, model: AdaptedModel, components: RunComponents[Characters], recipe: Recipe[R], outputs: Characters
    ) -> RecognitionBrain:
        """The task's training loop, measured by word and character error rates."""
        hparams = brain_hparams(recipe.settings, components)
        checkpointer = recipe.settings.checkpointer
        return self.brain(outputs, model, components.optimizer, components.lr, hparams, recipe.run_opts, checkpointer)

    def write_files(self, brain: RecognitionBrain, settings: R, data: RunData[Characters], before: None) -> None:
        """Writes transcripts.csv, what the last test transcribed, and skipped.csv, the clips that were set aside."""
        if if_main_process():
            write_skipped(data.skipped, f"{settings.output_folder}/skipped.csv")
            paths = {clip.id: clip.path for clip in data.clips}
            rows = [(name, paths[name], said, text, f"{wer:.4f}") for name, said, text, wer in brain.transcripts()]
            header = ["id", "path", "reference", "hypothesis", "wer"]
            write_table(f"{settings.output_folder}/{TRANSCRIPTS}", header, rows)

    def describe_adapter(self, model: AdaptedModel, settings: R, outputs: Characters) -> RecognizerDescription:
        """Characters and decoding, beside what every adapter says."""
        return RecognizerDescription(
            **describe_method(model, settings),
            task=self.kind,
            paper_code=False,
            characters=outputs.symbols,
            decoding=settings.decoding,
            beam_size=settings.beam_size,
        )

    def result_row(
        self, brain: RecognitionBrain, settings: R, data: RunData[Characters], tested: Tested
    ) -> dict[str, Any]:
        """Error rates are shares; ``test_wer`` is that of the best validation epoch."""
        best, last = tested["best"], tested["last"]
        return {
            "n_skipped": len(data.skipped),
            "n_characters": len(data.outputs.symbols),
            "updates": brain.total_steps,
            "decoding": settings.decoding,
            "beam_size": settings.beam_size,
            "best_epoch": best["epoch"],
            "valid_wer": best["valid_WER"],
            "valid_cer": best["valid_CER"],
            "test_wer": best["test_WER"],
            "test_cer": best["test_CER"],
            "test_wer_last_epoch": last["test_WER"],
            "test_cer_last_epoch": last["test_CER"],
        }

    def summary(self, results: dict[str, Any], output_folder: str) -> str:
        """Error rates of the best epoch and of the last."""

        def rates(kind: str, suffix: str = "") -> str:
            return f"WER {100 * results[f'{kind}_wer{suffix}']:.2f} %, CER {100 * results[f'{kind}_cer{suffix}']:.2f} %"

        rows = [
            ("test", f"{rates('test')} (epoch {results['best_epoch']}, best in validation)"),
            ("  beside it", f"{rates('test', '_last_epoch')} (epoch {results['epochs']}, the last)"),
            ("valid", rates("valid")),
        ]
        data = f"{results['dataset']}: {results['n_test']} test clips; {results['n_skipped']} clips were set aside"
        return summary_text(results, output_folder, data, rows, model=f", {results['decoding']} decoding")
