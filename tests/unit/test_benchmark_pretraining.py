"""The benchmark of pre-training: both variants of a part compute the same. No test compares times."""

import pytest
import torch
from transformers import Data2VecAudioConfig, Data2VecAudioModel

from benchmarks.pretraining import TAU, compare, expanded, main, one_product, update_in_a_loop
from brainplug.pretrain.data2vec import Teacher
from brainplug.pretrain.hubert import HubertObjective


def test_the_published_construction_has_the_same_loss_and_gradients():
    objective = HubertObjective(16, 7)
    labels, gradients = torch.randint(7, (20,)), []
    for loss in (one_product, expanded):
        tokens = torch.linspace(-1, 1, 320).view(20, 16).requires_grad_()
        objective.zero_grad()
        loss(objective, tokens, labels).backward()
        gradients.append([tokens.grad, *(parameter.grad for parameter in objective.parameters())])
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_both_updates_give_the_same_teacher():
    config = Data2VecAudioConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7,
        num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    student = Data2VecAudioModel(config)
    teachers = [Teacher(student, top=1) for _ in range(2)]
    torch.nn.init.normal_(student.encoder.layers[0].attention.q_proj.weight)
    teachers[0].update(TAU)
    update_in_a_loop(teachers[1])
    states = [teacher.state_dict() for teacher in teachers]
    assert all(torch.allclose(states[0][name], states[1][name], atol=1e-7) for name in states[0])


@pytest.mark.parametrize("document", [False, True])
def test_the_table_has_two_rows_for_each_pair(document, monkeypatch, tmp_path, capsys):
    small = Data2VecAudioConfig(
        hidden_size=16, num_hidden_layers=8, num_attention_heads=2, intermediate_size=16, conv_dim=[8] * 7,
        num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    monkeypatch.setattr("benchmarks.pretraining.known_config", lambda name: small)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in compare(5, 4, 1, "cpu").splitlines()[2:]]
    assert [row[1] for row in rows] == ["one product", "published", "one call", "a loop"]
    assert all(row[3:] == ["1.00", "1.00"] for row in rows[::2])
    path = tmp_path / "README.md"
    path.write_text("<!-- speed: written by `python -m benchmarks.pretraining` -->\n<!-- end of speed -->\n")
    main(["--frames=5", "--clusters=4", "--repeats=1", *([f"--write={path}"] if document else [])])
    assert "one product" in capsys.readouterr().out
    assert ("one product" in path.read_text()) == document
