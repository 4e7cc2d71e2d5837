"""Lists of methods and backbones say of a backbone what the real one would show, without its weights."""

from pathlib import Path

import pytest
from transformers import ASTConfig

from brainplug.backbones import known_config, load_backbone
from brainplug.backbones.loading import BUNDLED_FOLDER, HUB_NAMES, bundled_names
from brainplug.cli.backbones import list_backbones
from brainplug.cli.methods import count_on_meta, describe_settings, list_methods, read_methods
from brainplug.errors import ConfigError
from brainplug.methods import choose_method
from brainplug.methods.bottleneck import BottleneckAdapter
from brainplug.models.classifier import AudioClassifier, classifier_without_weights
from brainplug.results.documents import METHODS_MARKS
from tests.conftest import TINY_BACKBONES

ROOT = Path(__file__).parents[2]
HPARAMS = str(ROOT / "hparams")
METHODS, _ = read_methods(HPARAMS, "ast")
# The rates of methods.yaml are for a width of 768, and leave nothing of one of 16.
NARROW = dict.fromkeys(["bottleneck", "conformer", "convpass", "dense_moa", "soft_moa"], {"reduction_rate": 4})
NARROW["lora"] = {"reduction_rate": 8}


def rows(table: str) -> dict[str, list[str]]:
    """First cell -> the other ones."""
    cells = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table.splitlines()[2:]]
    return {first: others for first, *others in cells}


@pytest.mark.parametrize("backbone", list(TINY_BACKBONES))
@pytest.mark.parametrize("name", METHODS)
def test_counts_without_memory_are_those_of_a_model_with_weights(tiny_backbones, backbone, name):
    method, _ = choose_method(name, METHODS, NARROW)
    built = AudioClassifier(load_backbone(tiny_backbones[backbone]), method, 5)
    assert count_on_meta(known_config(tiny_backbones[backbone]), method, n_classes=5) == built.count_parameters()


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [*bundled_names(), *HUB_NAMES])
def test_every_method_has_its_row_on_every_backbone(backbone):
    listed = rows(list_methods(HPARAMS, backbone, n_classes=50))
    assert list(listed) == list(METHODS)
    for trainable, without_head, share, *_ in listed.values():
        assert int(without_head.replace(",", "")) <= int(trainable.replace(",", ""))
        assert share.endswith("%")


def test_random_weights_have_the_settings_of_what_they_are_made_after():
    listed, of_base = (list_methods(HPARAMS, name, n_classes=10) for name in ("random:nano-ast", "nano-ast"))
    assert listed == of_base


def test_a_folder_is_a_backbone_too(tiny_backbones):
    listed = rows(list_methods(HPARAMS, tiny_backbones["whisper"], n_classes=5))
    assert listed["linear"][:2] == [str(16 * 5 + 5 + 2 * 16), str(2 * 16)]


def test_a_method_that_cannot_serve_a_backbone_says_why():
    config = ASTConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    reason = count_on_meta(config, BottleneckAdapter(reduction_rate=64), n_classes=2)
    assert "The backbone's tokens are 16 wide" in reason
    assert "\n" not in reason


def test_a_reason_stands_where_the_numbers_would(tiny_backbones):
    listed = rows(list_methods(HPARAMS, tiny_backbones["ast"], n_classes=5))
    assert listed["bottleneck"][:3] == ["-", "-", "-"]
    assert listed["bottleneck"][4].startswith("-: ")


def test_what_a_backbone_changes_is_listed():
    listed = rows(list_methods(HPARAMS, "nano-ast", n_classes=10))
    assert "reduction_rate: 4" in listed["conformer"][-1]
    assert listed["linear"][3] == "0.005"


@pytest.mark.parametrize("name", METHODS)
def test_all_that_an_entry_sets_is_shown(name):
    given = getattr(METHODS[name]["settings"], "keywords", {})
    method, _ = choose_method(name, METHODS)
    shown = describe_settings(method, given)
    for setting, value in given.items():
        assert (f"{setting}: " in shown) == (value is not None)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("lora", {"rnak": 4}),
        ("lora", {"rank": 4}),
        ("adalora", {"tinit": 9}),
        ("dora", {"r": 0}),
        ("dora", {"task_type": "nowhere"}),
        ("soft_moa", {"slots": "many"}),
    ],
)
def test_settings_that_a_method_does_not_take_are_refused(name, settings):
    with pytest.raises(ConfigError):
        classifier_without_weights(known_config("nano-ast"), choose_method(name, METHODS, {name: settings})[0], 2)


def test_the_table_in_the_manual_is_the_one_that_the_command_prints():
    _, _, rest = (ROOT / "docs" / "methods.md").read_text().partition(METHODS_MARKS[0])
    table, end, _ = rest.partition(METHODS_MARKS[1])
    assert end
    assert table.strip() == list_methods(HPARAMS, "ast", n_classes=50), "write it anew, as the line below it says"


@pytest.fixture(scope="module")
def backbones() -> dict[str, list[str]]:
    return rows(list_backbones())


def test_backbones_are_listed_with_their_sizes(backbones):
    assert list(backbones) == [*bundled_names(), *HUB_NAMES]
    real = load_backbone("nano-ast")
    assert backbones["nano-ast"][:3] == ["6", "192", f"{sum(p.numel() for p in real.parameters()) / 1e6:.2f}"]
    assert backbones["whisper"][4] == "log_mel"
    assert backbones["whisper"][6] == "openai/whisper-base"


@pytest.mark.parametrize("name", [*bundled_names(), *HUB_NAMES])
def test_every_backbone_says_its_size_its_licence_and_how_it_was_made(backbones, name):
    layers, width, millions, megabytes, signal, licence, where, made = backbones[name]
    assert int(layers) > 0 and int(width) > 0 and float(millions) > 0
    assert signal in ("log_mel", "waveform")
    assert licence and len(made) > 20
    if name in bundled_names():  # half precision: two bytes a parameter, and the header
        assert where == "bundled"
        assert 2 * float(millions) <= float(megabytes) + 0.1 <= 8.1
    else:
        assert (where, megabytes) == (HUB_NAMES[name], "-")


def test_every_bundled_folder_belongs_to_a_short_name():
    assert [path.parent.name for path in sorted(BUNDLED_FOLDER.glob("*/config.json"))] == bundled_names()
