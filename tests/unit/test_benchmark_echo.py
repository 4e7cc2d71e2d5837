"""The benchmark of Echo: all ways of a row compute the same, and the table has them. No time is compared."""

import torch

from benchmarks.echo import PublishedRotary, compare, encoder_layers, main
from brainplug.backbones.echo import EchoConfig
from brainplug.backbones.echo.rotary import CombinedRotary


def test_the_published_way_computes_the_same():
    torch.manual_seed(0)
    config = EchoConfig(n_audio_state=16, n_audio_head=2, n_audio_layer=2, attn_implementation="sdpa")
    one, other = encoder_layers(config), encoder_layers(config, PublishedRotary)
    assert isinstance(other[0].attention.rotary, PublishedRotary)
    other.load_state_dict(one.state_dict())
    tokens, gradients = torch.randn(1, 6, 16), []
    for layers in (one, other):
        layers(tokens).square().sum().backward()
        gradients.append([parameter.grad for parameter in layers.parameters()])
    for first, second in zip(*gradients, strict=True):
        torch.testing.assert_close(first, second, atol=1e-3, rtol=1e-3)
    assert type(one[0].attention.rotary) is CombinedRotary


def test_the_table_has_a_row_for_each_way(tmp_path, capsys):
    made = compare(width=16, heads=2, layers=1, tokens=70, repeats=1, device="cpu")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in made.splitlines()[2:]]
    assert len(rows) == 7
    assert [row[3:] for row in rows if row[1] in ("plain rotary positions", "over the whole")] == [["1.00", "1.00"]] * 3
    document = tmp_path / "echo.md"
    document.write_text("<!-- speed: written by `python -m benchmarks.echo` -->\n<!-- end of speed -->\n")
    sizes = ["--width=16", "--heads=2", "--layers=1", "--tokens=8", "--repeats=1"]
    main([*sizes, f"--write={document}"])
    assert "with the learned rotation" in document.read_text()
    assert "with the learned rotation" in capsys.readouterr().out
