"""The benchmark of the methods counts memory and rounds correctly, on a tiny backbone. No test compares times."""

import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks.measure import measure
from benchmarks.methods import (
    MARKS,
    FrozenPass,
    Setting,
    TrainingStep,
    compare_methods,
    describe_machine,
    main,
)
from brainplug.backbones import known_config
from brainplug.errors import run_command
from brainplug.methods.bottleneck import BottleneckAdapter
from brainplug.methods.full import FullFineTuning
from brainplug.methods.linear import LinearProbe

ROOT = Path(__file__).parents[2]
FLOAT = 4  # bytes


@pytest.fixture(scope="module")
def setting() -> Setting:
    config = known_config("nano-ast")
    config.num_hidden_layers = 2
    return Setting(config, frames=64, batch=2, device="cpu", precision="fp32")


def rows(text: str) -> dict[str, list[str]]:
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    return {first: others for first, *others in cells[2:]}


def test_the_memory_of_a_forward_pass_is_that_of_weights_and_activations(setting):
    forward = FrozenPass(setting)
    weights = FLOAT * sum(weight.numel() for weight in forward.backbone.parameters())
    tokens, _ = forward.backbone(*forward.batch)
    widest = FLOAT * tokens[..., 0].numel() * forward.backbone.model.config.intermediate_size  # in the feed-forward
    [cost] = measure([forward], repeats=1, device="cpu")
    assert widest < cost.peak_bytes - weights < 8 * widest


def test_memory_is_the_same_in_every_run(setting):
    torch.manual_seed(0)
    step = TrainingStep(setting, BottleneckAdapter(), lr=0.1)
    first, second = (measure([step], repeats=1, device="cpu")[0].peak_bytes for _ in range(2))
    assert first == second


def test_full_fine_tuning_stores_weights_four_times(setting):
    step = TrainingStep(setting, FullFineTuning(), lr=1e-5)
    weights = FLOAT * sum(weight.numel() for weight in step.model.parameters())
    [cost] = measure([step], repeats=1, device="cpu")
    assert cost.peak_bytes > 4 * weights  # with the gradients, and two moments of each
    assert step.checkpoint_bytes() > weights


def test_a_linear_probe_stores_no_activations_of_the_encoder(setting):
    deep = dataclasses.replace(setting, config=known_config("nano-ast"))  # of 6 layers
    beside_weights = []
    for size in (setting, deep):
        step = TrainingStep(size, LinearProbe(), lr=0.1)
        weights = FLOAT * sum(weight.numel() for weight in step.model.parameters())
        beside_weights.append(measure([step], repeats=1, device="cpu")[0].peak_bytes - weights)
    assert beside_weights[0] == pytest.approx(beside_weights[1], rel=0.01)


def test_actions_take_turns_after_a_warm_up_round(setting):
    order = []

    class RecordedPass(FrozenPass):
        def __call__(self) -> None:
            order.append(self)
            super().__call__()

    first, second = RecordedPass(setting), RecordedPass(setting)
    costs = measure([first, second], repeats=2, device="cpu")
    assert order[:6] == [first, second] * 3
    assert [len(cost.seconds) for cost in costs] == [2, 2]


def test_every_chosen_method_has_a_row_and_the_mixture_is_compared(setting):
    table = rows(compare_methods(setting, "nano-ast", ["linear", "lora"], repeats=1))
    assert list(table)[:2] == ["linear", "lora"]
    mixture, adapter = list(table)[2:]
    assert "15 experts" in mixture
    assert "times the memory of the next" in table[mixture][-1]
    for seconds, memory, checkpoint, _ in table.values():
        assert float(seconds) > 0
        assert float(memory) > 1
        assert 1000 < int(checkpoint.replace(",", "")) < 10**6
    assert float(table[mixture][1]) > float(table[adapter][1])


def test_the_row_of_an_incompatible_method_has_the_reason(setting):
    config = known_config("nano-ast")
    config.hidden_size = config.intermediate_size = 24
    narrow = dataclasses.replace(setting, config=config)
    table = rows(compare_methods(narrow, "narrow", ["bottleneck"], repeats=1))
    assert table["bottleneck"][:3] == ["-", "-", "-"]
    assert "24 wide" in table["bottleneck"][3]


def test_bfloat16_computes_the_forward_pass_in_half_the_width(setting):
    half = FrozenPass(dataclasses.replace(setting, precision="bf16"))
    with half.setting.cast():
        assert torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype == torch.bfloat16


def test_the_machine_is_described(setting):
    line = describe_machine(setting, "nano-ast")
    assert f"torch {torch.__version__}" in line
    assert f"{torch.get_num_threads()} threads" in line
    assert "2 clips of 64 frames, fp32" in line


def test_the_table_is_written_between_its_marks(tmp_path, capsys):
    document = tmp_path / "README.md"
    document.write_text("\n".join(MARKS))
    sizes = ["--backbone=nano-ast", "--frames=64", "--batch=2", "--repeats=1", "--methods=linear"]
    main([*sizes, f"--threads={torch.get_num_threads()}", f"--write={document}"])
    assert document.read_text() == f"{MARKS[0]}\n{capsys.readouterr().out}{MARKS[1]}"


@pytest.mark.parametrize("wrong", ["--repeats=0", "--batch=-1", "--frames=many", "--device=tpu"])
def test_an_invalid_size_or_device_is_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        main(["--backbone=nano-ast", wrong])
    assert wrong.split("=")[1] in capsys.readouterr().err


def test_the_frozen_pass_is_frozen(setting):
    assert not any(weight.requires_grad for weight in FrozenPass(setting).backbone.parameters())


def test_an_unknown_method_is_refused_without_a_traceback(capsys):
    assert run_command(main, ["--backbone=nano-ast", "--methods=liner"]) == 2
    assert "Write --method= one of: linear" in capsys.readouterr().err
