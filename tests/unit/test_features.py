"""Log-mel features against transformers' extractor, and the cache against changes, tears and neighbours."""

import dataclasses
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ASTFeatureExtractor

from brainplug.data.features import FeatureCache, LogMel
from brainplug.data.manifest import Clip
from brainplug.errors import UsageError


def noise(samples, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, samples)).float()


@pytest.mark.parametrize("mel_bands", [40, 64, 128])
@pytest.mark.parametrize("frames", [1, 100, 500, 1024])
@pytest.mark.parametrize("samples", [400, 559, 560, 16000, 80000, 200_000])
def test_features_equal_those_of_transformers(samples, frames, mel_bands):
    waveform = noise(samples)
    extractor = ASTFeatureExtractor(num_mel_bins=mel_bands, max_length=frames)
    expected = extractor(waveform.numpy(), sampling_rate=16000, return_tensors="pt")["input_values"][0]
    features = LogMel(mel_bands=mel_bands, frames=frames).extract(waveform)
    assert features.shape == (frames, mel_bands)
    assert features.dtype == torch.float32
    assert torch.allclose(features, expected, atol=1e-4)


@pytest.mark.parametrize(
    "waveform", [torch.zeros(16000), torch.ones(16000), 1e-4 * noise(16000), torch.sin(torch.arange(16000) / 5)]
)
def test_features_equal_those_of_transformers_for_other_sounds(waveform):
    expected = ASTFeatureExtractor(mean=-2.0, std=3.0)(waveform.numpy(), sampling_rate=16000)["input_values"][0]
    features = LogMel(mean=-2.0, std=3.0).extract(waveform)
    assert np.allclose(features.numpy(), expected, atol=1e-4)


LENGTHS = (0, 1, 399, 400, 559, 560, 719, 16000, 30001)


@pytest.mark.parametrize("mel_bands", [40, 128])
@pytest.mark.parametrize("frames", [1, 2, 100, 186, 187, 1024])
@pytest.mark.parametrize("lengths", [LENGTHS, LENGTHS[:3], LENGTHS[:4], (8000, 8000), (30001,)], ids=str)
def test_a_batch_has_the_features_of_its_clips(lengths, frames, mel_bands):
    log_mel = LogMel(mel_bands=mel_bands, frames=frames)
    clips = [noise(samples, seed) for seed, samples in enumerate(lengths)]
    waveforms = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    features = log_mel.extract_batch(waveforms, torch.tensor(lengths) / max(lengths))
    assert features.shape == (len(lengths), frames, mel_bands)
    assert torch.allclose(features, torch.stack([log_mel.extract(clip) for clip in clips]), atol=1e-4)


def test_features_of_a_batch_keep_their_precision_under_autocast():
    log_mel, waveforms = LogMel(frames=100), noise(32000).view(2, 16000)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = log_mel.extract_batch(waveforms, torch.ones(2))
    assert torch.equal(features, log_mel.extract_batch(waveforms, torch.ones(2)))


@pytest.mark.gpu
def test_features_of_a_batch_are_made_on_its_device():
    log_mel, waveforms = LogMel(frames=100), noise(32000).view(2, 16000)
    features = log_mel.extract_batch(waveforms.cuda(), torch.ones(2).cuda())
    assert features.is_cuda
    assert torch.allclose(features.cpu(), log_mel.extract_batch(waveforms, torch.ones(2)), atol=1e-4)


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_less_than_one_window_is_padded_to_one(samples):
    features = LogMel(frames=5).extract(noise(samples))
    padded = LogMel(frames=5).extract(torch.cat([noise(samples), torch.zeros(400 - samples)]))
    assert torch.equal(features, padded)
    assert torch.isfinite(features).all()


def test_features_are_deterministic():
    assert torch.equal(LogMel().extract(noise(16000)), LogMel().extract(noise(16000)))


class Extract:
    """Counts its calls and gives each another value."""

    def __init__(self):
        self.calls = 0

    def __call__(self, clip):
        self.calls += 1
        return torch.full((3, 2), float(self.calls))


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"audio")
    return Clip("a", str(path), "dog")


@pytest.fixture
def extract():
    return Extract()


@pytest.fixture
def cache(tmp_path, extract):
    return FeatureCache(str(tmp_path / "cache"), extract, {"frames": 3})


def test_features_are_made_once(cache, clip, extract):
    first, second = cache(clip), cache(clip)
    assert torch.equal(first, second)
    assert extract.calls == 1


def test_a_later_run_finds_them(cache, clip, extract, tmp_path):
    cache(clip)
    later = FeatureCache(str(tmp_path / "cache"), extract, {"frames": 3})
    assert torch.equal(later(clip), torch.ones(3, 2))
    assert extract.calls == 1


def test_without_a_folder_nothing_is_kept(clip, extract, tmp_path):
    cache = FeatureCache(None, extract, {})
    assert not torch.equal(cache(clip), cache(clip))
    assert os.listdir(tmp_path) == ["a.wav"]


def test_relative_and_absolute_paths_share_an_entry(cache, clip, extract, tmp_path, monkeypatch):
    cache(clip)
    monkeypatch.chdir(tmp_path)
    cache(dataclasses.replace(clip, path="a.wav", id="other", label="cat", split="test"))
    assert extract.calls == 1


@pytest.mark.parametrize("part", [{"start": 1.0}, {"stop": 1.0}, {"start": 0.0}, {"start": 1.0, "stop": 2.0}])
def test_another_part_has_another_entry(part, cache, clip, extract):
    cache(clip)
    cache(dataclasses.replace(clip, **part))
    assert extract.calls == 2


def test_other_settings_have_another_entry(cache, clip, extract, tmp_path):
    cache(clip)
    FeatureCache(str(tmp_path / "cache"), extract, {"frames": 4})(clip)
    assert extract.calls == 2


def test_order_of_settings_does_not_matter(clip, extract):
    first = FeatureCache("cache", extract, {"frames": 3, "mel_bands": 2})
    assert first.entry(clip) == FeatureCache("cache", extract, {"mel_bands": 2, "frames": 3}).entry(clip)


@pytest.mark.parametrize("keep", ["size", "time"])
def test_a_changed_file_has_another_entry(keep, cache, clip, extract):
    cache(clip)
    status = os.stat(clip.path)
    if keep == "size":
        os.utime(clip.path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    else:
        Path(clip.path).write_bytes(b"longer audio")
        os.utime(clip.path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert torch.equal(cache(clip), torch.full((3, 2), 2.0))


def test_a_file_that_is_moved_onto_another_has_another_entry(cache, clip, tmp_path):
    """Size and time alike, as of the clips of one archive."""
    other = tmp_path / "other.wav"
    other.write_bytes(b"oidua")
    for path in (clip.path, other):
        os.utime(path, (1, 1))
    cache(clip)
    other.replace(clip.path)
    assert torch.equal(cache(clip), torch.full((3, 2), 2.0))


@pytest.mark.parametrize("kept_bytes", [0, 3, 5, 100, 130, 151, 155])
def test_a_torn_entry_is_made_again(kept_bytes, cache, clip, extract):
    cache(clip)
    entry = Path(cache.entry(clip))
    content = entry.read_bytes()
    assert len(content) == 156
    for calls, torn in enumerate((content[:kept_bytes], content[:kept_bytes].ljust(156, b"\0")), start=2):
        entry.write_bytes(torn)
        assert torch.equal(cache(clip), torch.full((3, 2), float(calls)))
        assert torch.equal(cache(clip), torch.full((3, 2), float(calls)))
        assert extract.calls == calls


@pytest.mark.parametrize("position", [0, 8, 60, 127, 130, 151, 155])
def test_an_entry_with_a_broken_byte_is_made_again(position, cache, clip, extract):
    cache(clip)
    entry = Path(cache.entry(clip))
    content = bytearray(entry.read_bytes())
    content[position] ^= 0x80
    entry.write_bytes(content)
    assert torch.equal(cache(clip), torch.full((3, 2), 2.0))


def test_an_entry_with_pickled_objects_is_not_opened(cache, clip, extract):
    cache(clip)
    np.save(cache.entry(clip), np.array([{}], dtype=object), allow_pickle=True)
    assert torch.equal(cache(clip), torch.full((3, 2), 2.0))


def test_several_workers_share_a_folder(cache, clip, tmp_path):
    clips = [dataclasses.replace(clip, start=float(n)) for n in range(20)]
    caches = [FeatureCache(str(tmp_path / "cache"), lambda clip: torch.full((50, 8), clip.start), {}) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda n: caches[n % 4](clips[n // 4 % 20]), range(160)))
    assert all(torch.equal(result, torch.full((50, 8), float(n // 4 % 20))) for n, result in enumerate(results))
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(files) == 20
    assert {path.suffix for path in files} == {".npy"}


def fill(folder: str, clips: list[Clip], value: float) -> None:
    """Another run: its features tell who made them."""
    cache = FeatureCache(folder, lambda clip: torch.full((50, 8), value), {})
    for clip in clips:
        cache(clip)


def test_two_runs_that_fill_a_folder_together_leave_whole_entries(clip, tmp_path):
    folder = str(tmp_path / "cache")
    clips = [dataclasses.replace(clip, start=float(n)) for n in range(200)]
    runs = [
        multiprocessing.get_context("fork").Process(target=fill, args=(folder, clips, value)) for value in (1.0, 2.0)
    ]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert [run.exitcode for run in runs] == [0, 0]
    cache = FeatureCache(folder, lambda clip: pytest.fail("made again"), {})
    values = [cache(clip) for clip in clips]
    assert all(value.shape == (50, 8) and len(value.unique()) == 1 for value in values)
    assert len([path for path in (tmp_path / "cache").rglob("*") if path.is_file()]) == 200


def test_a_run_that_dies_while_it_writes_leaves_no_entry(cache, clip, extract, tmp_path, monkeypatch):
    def die(file, values, **options):
        file.write(b"part")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(np, "save", die)
        with pytest.raises(KeyboardInterrupt):
            cache(clip)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert torch.equal(cache(clip), torch.full((3, 2), 2.0))


@pytest.mark.parametrize("fault", ["no folder", "full disk"])
def test_a_folder_that_cannot_be_written_to_stops_nothing(fault, cache, clip, tmp_path, monkeypatch, caplog):
    def fail(file, values, **options):
        file.write(b"part")
        raise OSError("No space left on device")

    if fault == "no folder":
        (tmp_path / "cache").touch()
    else:
        monkeypatch.setattr(np, "save", fail)
    assert [cache(clip)[0, 0].item() for _ in range(3)] == [1.0, 2.0, 3.0]
    assert [path for path in (tmp_path / "cache").rglob("*") if path.is_file()] == []
    [record] = caplog.records
    assert "cannot be written to" in record.getMessage()


def test_entries_are_float32_in_sub_folders_named_by_two_digits(cache, clip, tmp_path):
    cache(clip)
    entry = Path(cache.entry(clip)).relative_to(tmp_path / "cache")
    assert entry.parts == (entry.stem[:2], entry.name)
    assert np.load(cache.entry(clip)).dtype == np.float32


def test_a_missing_file_is_named(cache):
    with pytest.raises(UsageError, match="'lost'.*gone.wav"):
        cache(Clip("lost", "gone.wav", "dog"))
