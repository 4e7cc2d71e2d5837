"""Many adapters on one backbone: a mixed batch equals each adapter alone, and what is frozen is there once."""

import copy
import gc
import weakref
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from brainplug.adapters.description import ClassifierDescription
from brainplug.adapters.file import save_adapter
from brainplug.backbones import Backbone, load_backbone
from brainplug.compat.petl_ast.methods import PUBLISHED
from brainplug.data.windows import Windows
from brainplug.errors import CheckpointError, ConfigError, DataError, UsageError
from brainplug.inference import AdapterHub, Classifier
from brainplug.methods import choose_method
from brainplug.methods.full import FullFineTuning
from brainplug.methods.linear import LinearProbe
from brainplug.methods.lora import LoRA
from brainplug.models.classifier import AudioClassifier
from brainplug.models.ctc import CTCModel
from brainplug.models.per_clip import PerClip
from tests.contract.test_methods import METHODS, SETTINGS, chosen
from tests.made_adapters import describe_classifier, describe_recognizer

CLASSES = (3, 4, 5)  # of the adapters of a method
WAVS = 0.1 * torch.randn(5, 6400, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([1.0, 0.6, 0.9, 0.3, 0.8])
BACKBONES = ("nano-ast", "nano-hubert", "whisper")  # clips of one length, of several, and a tiny one of the first kind


@cache
def loaded(name: str, frames: int | None = 48) -> Backbone:
    return load_backbone(name, frames=frames)


@pytest.fixture(params=BACKBONES)
def backbone(request: pytest.FixtureRequest, tiny_backbones: dict[str, str]) -> Backbone:
    return loaded(tiny_backbones.get(request.param, request.param))


@pytest.fixture
def ast() -> Backbone:
    return loaded("nano-ast")


def shuffle(model: AudioClassifier, classes: int, seed: int) -> None:
    """Changes all that an adapter holds, statistics of batch norms too."""
    generator = torch.Generator().manual_seed(seed)
    model.head = torch.nn.Linear(model.backbone.dim, classes)
    for name, tensor in model.delta().items():
        if tensor.is_floating_point():
            change = 0.1 * torch.randn(tensor.shape, generator=generator)
            tensor.add_(change.abs() if name.endswith("running_var") else change)
    model.head.weight.data.mul_(3)


class Made:
    """Adapters in files, and the classifier of each."""

    def __init__(self, folder: Path, backbone: Backbone):
        self.folder, self.backbone = folder, backbone
        self.classifiers: dict[str, Classifier] = {}

    def add(self, name: str, method: object, classes: int, seed: int = 0, **changes: object) -> Path:
        """Makes the adapter of a method."""
        model = AudioClassifier(copy.deepcopy(self.backbone), method, classes).eval()
        shuffle(model, classes, seed)
        return self.save(name, model, **changes)

    def save(self, name: str, model: AudioClassifier, **changes: object) -> Path:
        """Saves an adapter as a run does."""
        labels = [f"{name}-{number}" for number in range(len(model.head.bias))]
        description = describe_classifier(model, labels).model_copy(update=changes)
        (self.folder / name).mkdir()
        save_adapter(model, self.folder / name, description)
        self.classifiers[name] = Classifier(model, description)
        return self.folder / name

    def hub(self) -> AdapterHub:
        """A hub with all of them."""
        hub = AdapterHub(self.backbone)
        for name in self.classifiers:
            hub.load(name, self.folder / name)
        return hub

    def check(self, hub: AdapterHub, names: list[str | list[str]]) -> None:
        """Compares a batch with one adapter and one clip at a time."""
        results = hub.classify_batch(WAVS[: len(names)], LENGTHS[: len(names)], names)
        wanted = [[own] if isinstance(own, str) else own for own in names]
        assert [list(result) for result in results] == wanted
        for number, result in enumerate(results):
            for name, prediction in result.items():
                clip = WAVS[number : number + 1], LENGTHS[number : number + 1]
                probabilities, score, _, [label] = self.classifiers[name].classify_batch(*clip)
                assert list(prediction.probabilities) == hub.labels(name) == self.classifiers[name].labels
                actual = torch.tensor(list(prediction.probabilities.values()))
                torch.testing.assert_close(actual, probabilities[0], atol=1e-5, rtol=0)
                assert (prediction.label, prediction.probability) == (label, pytest.approx(score.item(), abs=1e-5))


@pytest.fixture
def made(tmp_path: Path, ast: Backbone) -> Made:
    return Made(tmp_path, ast)


@pytest.mark.parametrize("method", list(METHODS))
@torch.no_grad()
def test_a_mixed_batch_equals_each_adapter_alone(method, backbone, tmp_path):
    made = Made(tmp_path, backbone)
    for seed, classes in enumerate(CLASSES):
        made.add(f"{method}{seed}", chosen(method), classes, seed)
    hub, names = made.hub(), [f"{method}{seed}" for seed in (0, 1, 0, 2, 1)]
    made.check(hub, names)
    made.check(hub, names[:1] * 3)  # all clips have one adapter
    # The adapters differ by far more than the tolerance, in the layers too.
    vectors = [made.classifiers[name].embed_batch(WAVS[0])[0] for name in names[:2]]
    assert method == "linear" or (vectors[0] - vectors[1]).abs().max() > 1e-3
    assert len({loaded.upper for loaded in hub._adapters.values()}) == 1


@pytest.mark.parametrize("name", ["nano-ast", "nano-hubert"])
@torch.no_grad()
def test_published_variants_are_mixed_too(name, tmp_path):
    made, variants = Made(tmp_path, loaded(name)), {kind.__name__ for kind in PUBLISHED}
    for method, entry in METHODS.items():
        if getattr(entry["settings"], "func", entry["settings"]).__name__ in variants:
            for number in range(2):
                adapter = choose_method(method, METHODS, SETTINGS, variants=PUBLISHED)[0]
                made.add(f"{method}{number}", adapter, 3, number)
    names = list(made.classifiers)
    assert len(names) == 24
    made.check(made.hub(), [names, names[:5]])


@pytest.mark.parametrize("name", ["nano-ast", "nano-hubert"])
@torch.no_grad()
def test_methods_and_numbers_of_classes_are_mixed_and_clips_have_several_adapters(name, tmp_path):
    made = Made(tmp_path, loaded(name))
    methods = ("linear", "lora", "conformer", "prompt_deep", "full", "ia3")
    for seed, method in enumerate(methods):
        made.add(method, chosen(method), 2 + seed, seed)
    made.add("lora2", chosen("lora"), 7, 8)
    made.add("last", FullFineTuning(layers=1), 2, 9)
    made.add("houlsby", chosen("bottleneck", location="houlsby"), 3, 10)
    names = [["lora", "linear"], "full", ["conformer", "lora2", "lora", "last"], "prompt_deep", ["ia3", "houlsby"]]
    made.check(made.hub(), names)


@pytest.mark.parametrize("name", ["wavlm", "echo", "data2vec"])
@torch.no_grad()
def test_other_families_are_shared_too(name, tiny_backbones, tmp_path):
    """WavLM hands a bias from layer to layer, whose first axis is clips and heads."""
    made = Made(tmp_path, loaded(tiny_backbones[name]))
    for seed, method in enumerate(("linear", "lora", "prompt_shallow", "prefix", "bitfit")):
        made.add(method, chosen(method), 3, seed)
    made.add("last", FullFineTuning(layers=1), 2, 9)
    made.check(made.hub(), [["linear", "prefix", "last"], "lora", "prompt_shallow", ["bitfit", "linear"], "lora"])


# What is shared


def rows_of(module: torch.nn.Module) -> list[int]:
    """The number of rows of each later call of a module."""
    rows: list[int] = []
    module.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    return rows


@torch.no_grad()
def test_what_lies_below_the_first_adapted_layer_is_computed_once(made, ast):
    for seed, method in enumerate((LinearProbe(), LinearProbe(), FullFineTuning(layers=2), LoRA(rank=2))):
        made.add(f"{seed}", method, 3, seed)
    hub = made.hub()
    layers = list(hub.backbone.model.layers)
    stem, below, last = rows_of(hub.lower.stem.model.embeddings), rows_of(layers[0]), rows_of(layers[-1])
    hub.classify_batch(WAVS[:2], LENGTHS[:2], [["0", "1"], ["0", "1"]])
    assert (stem, below, last) == ([2], [2], [2])
    hub.classify_batch(WAVS[:3], LENGTHS[:3], [["0", "1", "2"], ["2"], ["3", "2"]])
    assert stem == [2, 3]
    assert below == [2, 3]  # LoRA has a layer 0 of its own, with the backbone's tensors
    assert last == [2, 1]  # only the first clip has probes


def storages(*modules: torch.nn.Module) -> dict[int, int]:
    """Address -> bytes of all parameters and buffers."""
    tensors = [tensor for module in modules for tensor in (*module.parameters(), *module.buffers())]
    return {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}


@torch.no_grad()
def test_memory_is_that_of_one_backbone_and_the_adapters(made, ast):
    model = AudioClassifier(copy.deepcopy(ast), LoRA(rank=2), 3).eval()
    for number in range(50):
        shuffle(model, 3, number)
        made.save(f"{number}", model)
    before = storages(ast)
    hub = made.hub()
    [upper] = {loaded.upper for loaded in hub._adapters.values()}
    after = storages(hub, upper)
    assert before.keys() <= after.keys()
    one = sum(tensor.nbytes for tensor in model.delta().values())
    assert sum(after.values()) - sum(before.values()) <= one  # the layers that the adapters share
    assert [hub.nbytes(name) for name in hub.names] == [one] * 50
    shared, own = weakref.ref(upper), weakref.ref(hub._adapters["7"].weights)
    del upper
    hub.unload("7")
    gc.collect()
    assert own() is None and shared() is not None
    assert "7" not in hub.names and len(hub.names) == 49
    for name in hub.names:
        hub.unload(name)
    gc.collect()
    assert shared() is None


@torch.no_grad()
def test_loading_draws_no_random_number_and_leaves_the_backbone_as_it_is(made, ast):
    made.add("lora", chosen("lora"), 3)
    before, state = copy.deepcopy(ast.state_dict()), torch.get_rng_state()
    made.hub().classify_batch(WAVS, LENGTHS, ["lora"] * 5)
    assert torch.equal(torch.get_rng_state(), state)
    assert before.keys() == ast.state_dict().keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in ast.state_dict().items())


def test_what_torch_cannot_map_is_computed_adapter_by_adapter(made):
    for number in range(2):
        made.add(f"{number}", chosen("oft"), 3, number)
    hub = made.hub()
    with torch.no_grad():
        made.check(hub, ["0", "1", "0"])
    units = [module for module in hub._adapters["0"].upper.modules() if isinstance(module, PerClip)]
    assert {unit.can_be_mapped for unit in units} == {True, False}  # the final norm can be


@torch.no_grad()
def test_half_precision_is_close(made, tmp_path):
    for seed, method in enumerate(("lora", "bottleneck", "soft_moa", "conformer")):
        made.add(f"{method}", chosen(method), 3, seed)
        made.add(f"{method}2", chosen(method), 3, seed + 9)
    half = AdapterHub(made.backbone, precision="bf16")
    for name in made.classifiers:
        half.load(name, tmp_path / name)
    names = [list(made.classifiers)] * 2
    exact, rounded = (hub.classify_batch(WAVS[:2], None, names) for hub in (made.hub(), half))
    for one, other in zip(exact, rounded, strict=True):
        for name, prediction in one.items():
            assert other[name].probabilities == pytest.approx(prediction.probabilities, abs=0.1)
    assert exact != rounded


# Files


def test_files_have_adapters_beside_them_or_the_active_ones(tmp_path, made):
    for seed, name in enumerate(("a", "b")):
        made.add(name, chosen("lora"), 3, seed)
        path = tmp_path / f"{name}.wav"
        soundfile.write(path, 0.1 * np.random.default_rng(seed).standard_normal(16000 * (seed + 1)), 16000)
    paths, hub, bad = [str(tmp_path / "a.wav"), str(tmp_path / "b.wav")], made.hub(), []
    hub.active("b")
    pairs = [paths[0], (paths[1], "a"), (paths[0], ["a", "b"]), str(tmp_path / "gone.wav")]
    results = list(hub.classify_files(pairs, 2, on_error=lambda clip, error: bad.append(clip.path)))
    assert [list(result) for result in results] == [["b"], ["a"], ["a", "b"]]
    assert bad == [str(tmp_path / "gone.wav")]
    for result, path in zip(results, [paths[0], paths[1], paths[0]], strict=True):
        for name, prediction in result.items():
            alone = made.classifiers[name].classify_file(path)
            assert prediction.path == path
            assert prediction.probabilities == pytest.approx(alone.probabilities, abs=1e-5)
    windows = list(hub.classify_files([(paths[1], ["a", "b"])], windows=Windows(0.5, 0.5)))
    assert [(one["a"].start, one["b"].stop) for one in windows] == [(0.0, 0.5), (0.5, 1.0), (1.0, 1.5), (1.5, 2.0)]
    hub.unload("b")
    with pytest.raises(ConfigError, match="without adapters"):
        list(hub.classify_files(paths))


def test_the_shortest_limit_of_the_adapters_holds(made, tmp_path):
    made.add("long", chosen("lora"), 3, longest_clip=5.0)
    made.add("short", chosen("lora"), 3, longest_clip=1.0)
    soundfile.write(tmp_path / "a.wav", 0.1 * np.random.default_rng(0).standard_normal(32000), 16000)
    hub = made.hub()
    with pytest.raises(DataError, match=r"lasts 2.0 s; the model takes 1 s"):
        list(hub.classify_files([(tmp_path / "a.wav", "short")]))
    hub.unload("short")
    assert len(list(hub.classify_files([(tmp_path / "a.wav", "long")]))) == 1


# Bad input


@pytest.mark.parametrize("known", [False, True])
def test_an_adapter_of_another_backbone_is_refused(known, made, tmp_path):
    (tmp_path / "other").mkdir()
    path = Made(tmp_path / "other", loaded("nano-hubert")).add("speech", chosen("lora"), 3)
    hub = AdapterHub(made.backbone if known else "nano-ast")
    with pytest.raises(
        CheckpointError, match=r"hub of the backbone nano-ast.* It adapts nano-hubert.*AdapterHub\('nan"
    ):
        hub.load("speech", path)
    assert hub.names == []
    hub.load("fits", made.add("fits", chosen("lora"), 3))
    with pytest.raises(CheckpointError, match="It adapts nano-hubert"):
        hub.load("speech", path)


def test_a_hub_takes_frames_and_positions_of_its_first_adapter(made):
    hub = AdapterHub("nano-ast")
    hub.load("a", made.add("a", chosen("lora"), 3))
    assert hub.backbone.frames == 48
    with torch.no_grad():
        made.check(hub, ["a", "a"])


def test_an_adapter_that_reads_clips_otherwise_is_refused(made, tmp_path):
    hub = AdapterHub("nano-ast")
    hub.load("a", made.add("a", chosen("lora"), 3))
    (tmp_path / "other").mkdir()
    other = Made(tmp_path / "other", loaded("nano-ast", 64)).add("b", chosen("lora"), 3)
    with pytest.raises(CheckpointError, match="'frames': 64.*'frames': 48"):
        hub.load("b", other)
    for changes in ({"channel": "first"}, {"positions": "zero"}):
        name = next(iter(changes))
        with pytest.raises(CheckpointError, match=f"reads clips with .*{changes[name]}.* others in the hub"):
            hub.load(name, made.add(name, chosen("lora"), 3, **changes))
    assert hub.names == ["a"]


def test_an_adapter_of_another_task_is_refused(made, tmp_path):
    model = CTCModel(copy.deepcopy(loaded("nano-hubert")), LinearProbe(), 4)
    (tmp_path / "ctc").mkdir()
    save_adapter(model, tmp_path / "ctc", describe_recognizer(model, " abc"))
    with pytest.raises(CheckpointError, match=r"did the task ctc. Name a run of the task classification"):
        AdapterHub("nano-hubert").load("ctc", tmp_path / "ctc")


def test_weights_that_do_not_fit_their_description_are_refused(made):
    model = AudioClassifier(copy.deepcopy(made.backbone), LoRA(rank=2), 3)
    four = describe_classifier(model, ["a", "b", "c", "d"])
    (made.folder / "bad").mkdir()
    save_adapter(model, made.folder / "bad", ClassifierDescription.model_validate(four.model_dump()))
    with pytest.raises(CheckpointError, match=r"of another shape: \['head.bias', 'head.weight'\]"):
        AdapterHub(made.backbone).load("bad", made.folder / "bad")


@pytest.fixture
def two(made: Made) -> AdapterHub:
    """A hub with the adapters `birds` and `rooms`."""
    for name in ("birds", "rooms"):
        made.add(name, chosen("lora"), 3)
    return made.hub()


def test_a_name_is_given_once(two, made):
    with pytest.raises(ConfigError, match=r"'birds' from .* The hub has another .* call unload\('birds'\)"):
        two.load("birds", made.folder / "rooms")
    two.unload("birds")
    two.load("birds", made.folder / "rooms")
    assert two.names == ["rooms", "birds"]


@pytest.mark.parametrize("use", ["labels", "unload", "nbytes", "active"])
def test_unknown_names_are_refused_with_the_nearest(use, two):
    with pytest.raises(ConfigError, match=r"'bird' was asked for\. .*no adapter of this name\. Write one of: birds$"):
        getattr(two, use)("bird")


REFUSED = {
    "unknown": (["birds", "hall"], "'hall' was asked for.*birds, rooms"),
    "too few": (["birds"], "There are 2 clips. Give a list with one for each"),
    "one name": ("birds", "There are 2 clips. Give a list"),
    "none": (["birds", []], "A clip without adapters.*The hub has birds, rooms"),
    "twice": (["birds", ["rooms", "rooms"]], "rooms is named twice"),
    "no active": (None, r"without adapters.*call active\(NAMES\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_names_that_cannot_be_are_refused(case, two):
    names, words = REFUSED[case]
    with pytest.raises(UsageError, match=words):
        two.classify_batch(WAVS[:2], LENGTHS[:2], names)


def test_an_empty_hub_says_what_to_do(tmp_path):
    hub = AdapterHub("nano-ast")
    with pytest.raises(ConfigError, match=r"no adapters\. Call load\(NAME, FOLDER\) first"):
        hub.classify_batch(WAVS, None, ["a"] * 5)
    with pytest.raises(CheckpointError, match="no such folder"):
        hub.load("a", tmp_path / "gone")
    with pytest.raises(ConfigError, match="torch cannot use it"):
        AdapterHub("nano-ast", device="gpu")


@pytest.mark.gpu
@torch.no_grad()
def test_a_mixed_batch_on_a_gpu(made, tmp_path):
    hub = AdapterHub(made.backbone.to("cpu"), device="cuda")
    for seed, name in enumerate(("lora", "soft_moa", "conformer")):
        hub.load(name, made.add(name, chosen(name), 3, seed))
    on_gpu = hub.classify_batch(WAVS[:3], LENGTHS[:3], ["lora", "soft_moa", "conformer"])
    assert all(prediction.probability > 0 for result in on_gpu for prediction in result.values())
