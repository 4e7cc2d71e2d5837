"""The benchmark of the optimisers: what it counts and how, on a tiny backbone. No time is compared with anything."""

from pathlib import Path

import pytest
import torch

from benchmarks.optimizers import MARKS, OPTIMIZERS, OptimizerStep, compare_optimizers, main
from brainplug.backbones import known_config
from brainplug.errors import run_command

ROOT = Path(__file__).parents[2]


def rows(text: str) -> list[list[str]]:
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "|" in line]
    return lines[2:]


def test_every_method_has_a_row_for_every_optimiser():
    table = rows(compare_optimizers(known_config("nano-ast"), "nano-ast", ["linear", "lora"], 64, 1, "cpu"))
    assert [(row[0], row[-1]) for row in table] == [
        (name, f"{method} on nano-ast") for method in ("linear", "lora") for name in OPTIMIZERS
    ]
    for name, milliseconds, time, memory, tensors, elements, _ in table:
        assert float(milliseconds) > 0 and float(time) > 0 and float(memory) > 0.5
        assert int(elements.replace(",", "")) > int(tensors) > 0
        assert name != "adamw" or (time, memory) == ("1.00", "1.00")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_moves_its_own_parameters_and_leaves_the_gradients(name):
    weights = [torch.randn(3, 4), torch.randn(5)]
    step = OptimizerStep(OPTIMIZERS[name], weights)
    before = [param.grad.clone() for param in step.params]
    step()
    assert not any(torch.equal(param, weight) for param, weight in zip(step.params, weights, strict=True))
    assert all(torch.equal(param.grad, grad) for param, grad in zip(step.params, before, strict=True))


def test_weights_gradients_and_state_are_counted():
    step = OptimizerStep(OPTIMIZERS["fadam"], [torch.randn(3, 4)])
    step()
    assert sum(tensor.numel() for tensor in step.tensors()) == 4 * 12 + 1  # with two moments, and the step count


def test_the_table_is_written_between_its_marks(tmp_path, capsys):
    document = tmp_path / "optimizers.md"
    document.write_text("\n".join(MARKS))
    sizes = ["--backbone=nano-ast", "--frames=64", "--repeats=1", "--methods=linear"]
    main([*sizes, f"--threads={torch.get_num_threads()}", f"--write={document}"])
    assert document.read_text() == f"{MARKS[0]}\n{capsys.readouterr().out}{MARKS[1]}"
    assert f"torch {torch.__version__}" in document.read_text()


def test_the_document_of_the_project_has_the_marks():
    text = (ROOT / "docs" / "optimizers.md").read_text()
    assert all(mark in text.splitlines() for mark in MARKS)


def test_an_unknown_method_is_told_without_a_traceback(capsys):
    assert run_command(main, ["--backbone=nano-ast", "--methods=liner"]) == 2
    assert "Write --method= one of: linear" in capsys.readouterr().err
