"""JSON, safetensors and tables that are damaged are told as such, whatever is wrong with them."""

import contextlib
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from brainplug.backbones import load_backbone
from brainplug.backbones.loading import known_config
from brainplug.errors import DataError, UsageError
from brainplug.files import OBSERVATIONS, PREDICTIONS, TRAIN_LOG, read_json
from brainplug.results.run_files import read_observations, read_predictions, read_train_log

DAMAGE = [b"", b"\xff\xfe\x88", b"[1]", b"null", b"{", b"[" * 100_000, b'{"model_type": []}', b'{"model_type": null}']


@pytest.mark.parametrize("content", DAMAGE[:6], ids=range(6))
def test_json_that_holds_no_object_is_refused(content, tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match="a.json was asked for"):
        read_json(path)


def test_keys_that_are_missing_are_named(tmp_path):
    (tmp_path / "a.json").write_text('{"b": 1}')
    with pytest.raises(DataError, match=r"It lacks a, c\."):
        read_json(tmp_path / "a.json", ["a", "b", "c"])


@pytest.fixture(scope="module")
def backbone(tiny_backbones, tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged") / "ast"
    shutil.copytree(tiny_backbones["ast"], folder)
    return folder


@contextlib.contextmanager
def replaced(path, content):
    whole = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", DAMAGE, ids=range(len(DAMAGE)))
def test_damaged_files_of_a_backbone_are_refused(content, name, backbone):
    with replaced(backbone / name, content):
        if name == "config.json":
            with pytest.raises(UsageError):
                known_config(str(backbone))
        with contextlib.suppress(UsageError) if b"model_type" in content else pytest.raises(UsageError):
            load_backbone(str(backbone))


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just([]) | st.just({})


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_configuration_is_read_or_refused(data, backbone):
    """A wrong value raises anything in transformers; a person reads one message."""
    name = data.draw(st.sampled_from(["config.json", "preprocessor_config.json"]))
    config = json.loads((backbone / name).read_text())
    small = values.filter(lambda value: not isinstance(value, int) or abs(value) < 100)
    config[data.draw(st.sampled_from(sorted(config)))] = data.draw(small)
    with replaced(backbone / name, json.dumps(config).encode()), contextlib.suppress(UsageError):
        load_backbone(str(backbone), frames=64)


ARRAYS = {"targets": np.arange(3), "vectors": np.ones((3, 2)), "vectors_before": np.ones((3, 2))}
OTHER_ARRAYS = {
    "none": {},
    "other clips": {**ARRAYS, "vectors": np.ones((2, 2))},
    "a target without a label": {**ARRAYS, "targets": np.arange(1, 4)},
    "no number of an array": {**ARRAYS, "targets": np.array(3)},
}


@pytest.mark.parametrize("kind", OTHER_ARRAYS)
def test_observations_that_do_not_fit_are_refused(kind, tmp_path):
    safetensors.numpy.save_file(OTHER_ARRAYS[kind], tmp_path / OBSERVATIONS, {"labels": '["a", "b", "c"]'})
    with pytest.raises(DataError, match="observations.safetensors was asked for. It is damaged"):
        read_observations(tmp_path)


READERS = {OBSERVATIONS: read_observations, PREDICTIONS: read_predictions, TRAIN_LOG: read_train_log}
GOOD = {
    OBSERVATIONS: safetensors.numpy.save(ARRAYS, {"labels": '["a", "b", "c"]'}),
    PREDICTIONS: b"id,path,label,predicted,probability\na,a.wav,dog,cat,0.5\n",
    TRAIN_LOG: b"epoch: 1, lr: 1e-3 - train loss: 1.0 - valid loss: 2.0, valid accuracy: 50.00\n",
}


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_file_of_a_run_is_read_or_refused(name, data, tmp_path):
    good = GOOD[name]
    start = data.draw(st.integers(0, len(good)))
    noise = data.draw(st.binary(max_size=20))
    (tmp_path / name).write_bytes(good[:start] + noise + good[data.draw(st.integers(start, len(good))) :])
    with contextlib.suppress(DataError):
        READERS[name](tmp_path)
