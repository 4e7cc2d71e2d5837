"""Speech made with espeak-ng."""

import sys

import numpy as np
import pytest

pytest.importorskip("espeakng_loader", reason="the extra 'demo' is not installed")

from brainplug.errors import UsageError  # noqa: E402
from brainplug.synthetic.espeak import Voice, in_fresh_process, speak, speak_with_phones  # noqa: E402

VOICES = [
    Voice("m3"),
    Voice("f3"),  # its breath is drawn at random
    Voice("adam", accent="en-gb-scotland", pitch=30, rate=140),
]


def message_without_package() -> str:
    """Speaks as if espeakng-loader were not installed; returns what the user is told."""
    sys.modules["espeakng_loader"] = None
    with pytest.raises(UsageError) as failure:
        speak("good morning", Voice("f3"))
    return str(failure.value)


def speak_with_all_voices() -> list[np.ndarray]:
    """Speaks two phrases with every voice, one after the other."""
    return [speak(phrase, voice)[0] for voice in VOICES for phrase in ("good morning", "turn on the lights")]


def test_fresh_processes_speak_the_same_samples():
    first, second = (in_fresh_process(speak_with_all_voices) for _ in range(2))
    for i in range(2 * len(VOICES)):
        np.testing.assert_array_equal(first[i], second[i])


@pytest.mark.parametrize("voice", VOICES, ids=lambda voice: voice.name)
def test_speech_is_mono_float32_within_full_scale_and_not_silent(voice):
    samples, sample_rate = speak("good morning", voice)
    assert sample_rate == 22050
    assert samples.ndim == 1
    assert samples.dtype == np.float32
    assert 0.05 < np.abs(samples).max() <= 1


def test_voices_sound_different():
    first, second = (speak("good morning", Voice(variant))[0] for variant in ("f3", "m3"))
    length = min(len(first), len(second))
    assert np.abs(first[:length] - second[:length]).max() > 0.1


def test_faster_speech_is_shorter():
    slow, fast = (speak("turn on the lights in the kitchen", Voice("m3", rate=rate))[0] for rate in (120, 240))
    assert len(fast) < 0.7 * len(slow)


def test_more_words_take_longer():
    short, long = (speak(phrase, Voice("m3"))[0] for phrase in ("lights on", "lights on in the big kitchen please"))
    assert len(long) > 1.5 * len(short)


@pytest.mark.parametrize("voice", [Voice("f3", accent="en-nowhere"), Voice("nobody")], ids=lambda voice: voice.name)
def test_unknown_voice_is_named(voice):
    with pytest.raises(ValueError, match=r"en-\w+\+\w+.* does not have it"):
        speak("good morning", voice)


def test_phones_follow_one_another_within_the_phrase():
    samples, phones, sample_rate = speak_with_phones("seven", Voice("m3"))
    starts = [start for start, _ in phones]
    assert starts == sorted(starts)
    assert 0 <= starts[0] < starts[-1] <= len(samples) / sample_rate
    assert [name.strip("'") for _, name in phones][:3] == ["s", "E", "v"]


def test_missing_package_says_what_to_install():
    message = in_fresh_process(message_without_package)
    assert "espeakng-loader" in message
    assert message.endswith("Write: pip install 'brainplug[demo]'")
