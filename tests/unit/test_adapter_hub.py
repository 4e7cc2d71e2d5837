"""Many adapters on one backbone: a mixed batch equals each adapter alone, and what is frozen is there once."""

import copy
import gc
import weakref
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from brainplug.backbones import Backbone
from brainplug.backbones.spec import BackboneSpec
from brainplug.compat.petl_ast.methods import PUBLISHED
from brainplug.data.windows import Windows
from brainplug.errors import ConfigError, DataError
from brainplug.inference import AdapterHub, Classifier
from brainplug.methods import choose_method
from brainplug.methods.full import FullFineTuning
from brainplug.methods.linear import LinearProbe
from brainplug.methods.lora import LoRA
from brainplug.methods.sublayer import adapt_sublayers
from brainplug.models.classifier import AudioClassifier
from brainplug.models.per_clip import PerClip
from brainplug.models.shared import LowerPart, Row, UpperPart, pooled_vectors
from tests.contract.test_methods import METHODS, SETTINGS, chosen
from tests.made_hubs import LENGTHS, WAVS, Made, loaded, shuffle

BACKBONES = ("ast", "hubert", "whisper")  # clips of one length, of several, and of one length again


@pytest.fixture(scope="module")
def ast(tiny_backbones: dict[str, str]) -> Backbone:
    return loaded(tiny_backbones["ast"])


@pytest.fixture
def made(tmp_path: Path, ast: Backbone) -> Made:
    return Made(tmp_path, ast)


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("method", list(METHODS))
@torch.no_grad()
def test_a_mixed_batch_equals_each_adapter_alone(method, backbone, tmp_path, tiny_backbones):
    made = Made(tmp_path, loaded(tiny_backbones[backbone]))
    model = AudioClassifier(copy.deepcopy(made.backbone), chosen(method), 3).eval()
    for seed, classes in enumerate((3, 5)):
        shuffle(model, classes, seed)
        made.save(f"{seed}", model)
    # The adapters differ by far more than the tolerance, in the layers too.
    assert method == "linear" or (made.vectors["0"] - made.vectors["1"]).abs().max() > 1e-3
    hub = made.hub()
    made.check(hub, ["0", "1", "0"])
    made.check(hub, ["1", "1"])  # all clips have one adapter
    assert len({adapter.upper for adapter in hub._adapters.values()}) == 1


@pytest.mark.parametrize("name", ["ast", "hubert"])
@torch.no_grad()
def test_published_variants_are_mixed_too(name, tmp_path, tiny_backbones):
    made, variants = Made(tmp_path, loaded(tiny_backbones[name])), {kind.__name__ for kind in PUBLISHED}
    for method, entry in METHODS.items():
        if getattr(entry["settings"], "func", entry["settings"]).__name__ in variants:
            adapter = choose_method(method, METHODS, SETTINGS, variants=PUBLISHED)[0]
            model = AudioClassifier(copy.deepcopy(made.backbone), adapter, 3).eval()
            for number in range(2):
                shuffle(model, 3, number)
                made.save(f"{method}{number}", model)
    names = list(made.labels)
    assert len(names) == 24
    made.check(made.hub(), [names, names[:5]])


@pytest.mark.parametrize("name", ["ast", "hubert"])
@torch.no_grad()
def test_methods_and_numbers_of_classes_are_mixed_and_clips_have_several_adapters(name, tmp_path, tiny_backbones):
    made = Made(tmp_path, loaded(tiny_backbones[name]))
    for seed, method in enumerate(("linear", "lora", "conformer", "prompt_deep", "full", "ia3")):
        made.add(method, chosen(method), 2 + seed, seed)
    made.add("lora2", chosen("lora"), 7, 8)
    made.add("last", FullFineTuning(layers=1), 2, 9)
    made.add("houlsby", chosen("bottleneck", location="houlsby"), 3, 10)
    names = [["lora", "linear", "full"], ["conformer", "lora2", "last"], ["ia3", "prompt_deep", "houlsby"]]
    made.check(made.hub(), names)


@torch.no_grad()
def test_heads_with_a_norm_are_mixed_with_others(made):
    for seed, head_norm in enumerate((None, 1e-3, 1e-3, 1e-12)):
        model = AudioClassifier(copy.deepcopy(made.backbone), LoRA(rank=2), 3, head_norm=head_norm).eval()
        for tensor in model.delta().values():
            torch.nn.init.normal_(tensor, std=0.5, generator=torch.Generator().manual_seed(seed))
        made.save(f"{seed}", model, head_norm=head_norm)
    made.check(made.hub(), [["0", "1"], "2", ["3", "2", "1"]])


class ScaledSublayer(torch.nn.Module):
    """As in docs/extending.md: it multiplies what a sub-layer returns, which is a tuple if this is attention."""

    def __init__(self, sublayer: torch.nn.Module, dim: int):
        super().__init__()
        self.sublayer, self.factors = sublayer, torch.nn.Parameter(torch.ones(dim))

    def forward(self, hidden_states: torch.Tensor, *inputs: object, **named: object) -> object:
        outputs = self.sublayer(hidden_states, *inputs, **named)
        return (outputs[0] * self.factors, *outputs[1:]) if isinstance(outputs, tuple) else outputs * self.factors


class Scaling(LinearProbe):
    def attach(self, model: torch.nn.Module, spec: BackboneSpec) -> None:
        adapt_sublayers(model, spec, "houlsby", lambda sublayer: ScaledSublayer(sublayer, model.config.hidden_size))


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # attention is mapped too
@pytest.mark.parametrize("name", ["ast", "hubert"])
@torch.no_grad()
def test_a_method_that_somebody_adds_needs_nothing_more(name, tiny_backbones):
    backbone = loaded(tiny_backbones[name])
    model = AudioClassifier(copy.deepcopy(backbone), Scaling(), 3).eval()
    lower, upper = LowerPart(backbone), UpperPart(backbone, Scaling())
    clips = [model.backbone.extract(wav[:samples]) for wav, samples in zip(WAVS, (5000, 3000, 4000), strict=False)]
    signal = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    lengths = torch.tensor([len(clip) / signal.shape[1] for clip in clips])
    rows, expected = [], []
    for seed, clip in enumerate((0, 1, 2, 1)):
        shuffle(model, 3, seed)
        rows.append(Row(clip, upper, upper.flatten(model.delta())))
        expected.append(model.pool(*model.backbone(clips[clip][None], torch.ones(1))))
    torch.testing.assert_close(pooled_vectors(lower, signal, lengths, rows), torch.cat(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["wavlm", "echo", "data2vec"])
@torch.no_grad()
def test_other_families_are_shared_too(name, tiny_backbones, tmp_path):
    """WavLM hands a bias from layer to layer, whose first axis is clips and heads."""
    made = Made(tmp_path, loaded(tiny_backbones[name]))
    for seed, method in enumerate(("linear", "lora", "prompt_shallow", "prefix", "bitfit")):
        made.add(method, chosen(method), 3, seed)
    made.add("last", FullFineTuning(layers=1), 2, 9)
    made.check(made.hub(), [["linear", "prefix", "last"], ["prompt_shallow", "lora"], ["bitfit", "linear", "lora"]])


# What is shared


def rows_of(module: torch.nn.Module) -> list[int]:
    """The number of rows of each later call of a module."""
    rows: list[int] = []
    module.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0])))
    return rows


@torch.no_grad()
def test_what_lies_below_the_first_adapted_layer_is_computed_once(made, ast):
    for seed, method in enumerate((LinearProbe(), LinearProbe(), FullFineTuning(layers=1), LoRA(rank=2))):
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
    for number in range(8):
        shuffle(model, 3, number)
        made.save(f"{number}", model)
    before = storages(ast)
    hub = made.hub()
    [upper] = {loaded.upper for loaded in hub._adapters.values()}
    after = storages(hub.lower, upper)
    assert before.keys() <= after.keys()
    one = sum(tensor.nbytes for tensor in model.delta().values())
    assert sum(after.values()) - sum(before.values()) <= one  # the layers that the adapters share
    assert [hub.nbytes(name) for name in hub.names] == [one] * 8
    shared, own = weakref.ref(upper), weakref.ref(hub._adapters["7"].weights)
    del upper
    hub.unload("7")
    gc.collect()
    assert own() is None and shared() is not None
    assert "7" not in hub.names and len(hub.names) == 7
    for name in hub.names:
        hub.unload(name)
    gc.collect()
    assert shared() is None


@torch.no_grad()
def test_loading_draws_no_random_number_and_leaves_the_backbone_as_it_is(made, ast):
    made.add("lora", chosen("lora"), 3)
    before, state = copy.deepcopy(ast.state_dict()), torch.get_rng_state()
    made.hub().classify_batch(WAVS, LENGTHS, ["lora"] * 3)
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
def test_half_precision_is_close(made):
    for seed, method in enumerate(("lora", "bottleneck", "soft_moa", "conformer")):
        made.add(method, chosen(method), 3, seed)
        made.add(f"{method}2", chosen(method), 3, seed + 9)
    names = [list(made.labels)] * 2
    rounded = made.hub(precision="bf16").classify_batch(WAVS[:2], LENGTHS[:2], names)
    actual = [[list(result[name].probabilities.values()) for name in result] for result in rounded]
    expected = [[made.expected[name][clip].tolist() for name in result] for clip, result in enumerate(rounded)]
    assert actual != expected
    torch.testing.assert_close(torch.tensor(actual), torch.tensor(expected), atol=0.1, rtol=0)


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
            alone = Classifier.from_run(tmp_path / name).classify_file(path)
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


@pytest.mark.gpu
@torch.no_grad()
def test_a_mixed_batch_on_a_gpu(made, tmp_path):
    for seed, name in enumerate(("lora", "soft_moa", "conformer")):
        made.add(name, chosen(name), 3, seed)
    made.check(AdapterHub(copy.deepcopy(made.backbone), device="cuda"), ["lora", "soft_moa", ["conformer", "lora"]])
