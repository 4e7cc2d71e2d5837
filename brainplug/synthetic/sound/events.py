"""Synthetic sound events: each function draws one event of its class.

All of them return a waveform ``[time]`` at 16 kHz with a peak of about 1. Nothing here is recorded.
"""

from collections.abc import Callable

import numpy as np
from scipy import signal

SAMPLE_RATE = 16000
Draw = np.random.Generator
Wave = np.ndarray  # [time]


def _time(seconds: float) -> Wave:
    return np.arange(int(seconds * SAMPLE_RATE)) / SAMPLE_RATE


def _peak(waveform: Wave) -> Wave:
    return (waveform / (np.abs(waveform).max() + 1e-9)).astype(np.float32)


def _log_uniform(draw: Draw, low: float, high: float) -> float:
    return float(np.exp(draw.uniform(np.log(low), np.log(high))))


def _harmonics(frequency: Wave, draw: Draw, count: int, tilt: float) -> Wave:
    """A harmonic tone whose fundamental follows `frequency` in Hz, with amplitudes falling as n ** -tilt."""
    phase = 2 * np.pi * np.cumsum(frequency) / SAMPLE_RATE
    highest = max(1, min(count, int(7000 / frequency.max())))
    return sum(n**-tilt * np.sin(n * phase + draw.uniform(0, 6.28)) for n in range(1, highest + 1))


def _noise(draw: Draw, samples: int, color: float) -> Wave:
    """Noise whose power falls as frequency ** -color: 0 is white, 1 pink, 2 brown."""
    spectrum = np.fft.rfft(draw.standard_normal(samples))
    spectrum *= np.maximum(np.arange(len(spectrum)), 1) ** (-color / 2)
    return _peak(np.fft.irfft(spectrum, samples))


def _band(waveform: Wave, low: float, high: float) -> Wave:
    filters = signal.butter(2, [low, min(high, 7900)], "bandpass", fs=SAMPLE_RATE, output="sos")
    return signal.sosfilt(filters, waveform)


def _slow(draw: Draw, samples: int, rate: float) -> Wave:
    """A random curve in [0, 1] that changes about `rate` times a second."""
    knots = draw.uniform(0, 1, max(3, int(samples / SAMPLE_RATE * rate) + 2))
    return np.interp(np.linspace(0, len(knots) - 1, samples), np.arange(len(knots)), knots)


def _repeat(event: Callable[[], Wave], draw: Draw, seconds: float, gap: float, jitter: float) -> Wave:
    """The event again and again, `gap` seconds apart, with that share of `jitter`."""
    out = np.zeros(int(seconds * SAMPLE_RATE) + SAMPLE_RATE)
    at = draw.uniform(0, gap)
    while at < seconds:
        piece = event()[:SAMPLE_RATE]
        start = int(at * SAMPLE_RATE)
        out[start : start + len(piece)] += piece[: len(out) - start] * draw.uniform(0.5, 1)
        at += max(0.01, gap * (1 + jitter * draw.standard_normal()))
    return out[: int(seconds * SAMPLE_RATE)]


def _decay(waveform: Wave, seconds: float) -> Wave:
    return waveform * np.exp(-np.arange(len(waveform)) / (seconds * SAMPLE_RATE))


def tone(draw: Draw) -> Wave:
    """A steady tone with few harmonics."""
    time = _time(draw.uniform(0.5, 4))
    return _harmonics(np.full(len(time), _log_uniform(draw, 150, 3000)), draw, int(draw.integers(1, 5)), 1)


def sweep_up(draw: Draw) -> Wave:
    """A tone that rises."""
    low = _log_uniform(draw, 100, 1000)
    curve = np.geomspace(low, low * draw.uniform(2, 6), int(draw.uniform(0.2, 3) * SAMPLE_RATE))
    return _harmonics(curve, draw, int(draw.integers(1, 6)), 1)


def sweep_down(draw: Draw) -> Wave:
    """A tone that falls."""
    low = _log_uniform(draw, 100, 1000)
    curve = np.geomspace(low * draw.uniform(2, 6), low, int(draw.uniform(0.2, 3) * SAMPLE_RATE))
    return _harmonics(curve, draw, int(draw.integers(1, 6)), 1)


def siren(draw: Draw) -> Wave:
    """A tone that goes up and down slowly."""
    time = _time(4)
    center, width = _log_uniform(draw, 400, 1500), draw.uniform(0.2, 0.6)
    shape = np.sin if draw.random() < 0.5 else signal.square
    return _harmonics(center * (1 + width * shape(2 * np.pi * draw.uniform(0.2, 2) * time)), draw, 6, 1)


def beeps(draw: Draw) -> Wave:
    """Short tones at even distances."""
    frequency, length = _log_uniform(draw, 400, 4000), draw.uniform(0.04, 0.2)
    event = lambda: np.sin(2 * np.pi * frequency * _time(length))  # noqa: E731
    return _repeat(event, draw, 4, draw.uniform(length * 1.3, 1), 0)


def bell(draw: Draw) -> Wave:
    """Inharmonic partials that ring out."""
    time, base = _time(draw.uniform(1, 4)), _log_uniform(draw, 200, 2000)
    partials = base * np.array([1, 2.0, 2.4, 3.0, 4.5, 5.3]) * draw.uniform(0.97, 1.03, 6)
    return sum(
        np.sin(2 * np.pi * f * time) * np.exp(-time * draw.uniform(1, 6) * f / base) for f in partials if f < 7500
    )


def pluck(draw: Draw) -> Wave:
    """Plucked strings."""

    def event() -> Wave:
        period = int(SAMPLE_RATE / _log_uniform(draw, 80, 800))
        excitation = np.zeros(SAMPLE_RATE)
        excitation[:period] = draw.standard_normal(period)
        feedback = np.zeros(period + 2)
        feedback[[0, period, period + 1]] = 1, -0.498, -0.498
        return signal.lfilter([1], feedback, excitation)

    return _repeat(event, draw, 4, draw.uniform(0.15, 1), 0.2)


def drone(draw: Draw) -> Wave:
    """Several low tones that beat."""
    time = _time(4)
    tones = [
        _harmonics(np.full(len(time), _log_uniform(draw, 50, 300)), draw, 12, draw.uniform(0.5, 1.5)) for _ in range(3)
    ]
    return sum(tones, np.zeros(len(time)))


def engine(draw: Draw) -> Wave:
    """Combustion: pulses at a low and wandering rate, with noise."""
    samples = 4 * SAMPLE_RATE
    rate = _log_uniform(draw, 15, 90) * (0.8 + 0.4 * _slow(draw, samples, draw.uniform(0.3, 3)))
    pulses = _peak(_harmonics(rate, draw, 60, draw.uniform(0.3, 1)))
    return pulses + draw.uniform(0.05, 0.4) * _noise(draw, samples, 1) * (1 + pulses)


def saw(draw: Draw) -> Wave:
    """A buzzing motor whose pitch sags under load."""
    samples = 4 * SAMPLE_RATE
    rate = _log_uniform(draw, 80, 300) * (0.6 + 0.5 * _slow(draw, samples, draw.uniform(0.5, 2)))
    rate = rate * (1 + 0.02 * _noise(draw, samples, 1))
    return _peak(_harmonics(rate, draw, 40, draw.uniform(0.1, 0.7))) + 0.3 * _noise(draw, samples, 0)


def rotor(draw: Draw) -> Wave:
    """Noise chopped by blades, ten to thirty times a second."""
    time = _time(4)
    blades = (0.5 + 0.5 * np.sin(2 * np.pi * draw.uniform(8, 30) * time)) ** draw.integers(1, 6)
    return _noise(draw, len(time), draw.uniform(1, 2)) * blades + 0.1 * _noise(draw, len(time), draw.uniform(0, 1))


def white_noise(draw: Draw) -> Wave:
    """Steady noise."""
    return _noise(draw, 4 * SAMPLE_RATE, draw.uniform(0, 0.5))


def brown_noise(draw: Draw) -> Wave:
    """Steady dark noise."""
    return _noise(draw, 4 * SAMPLE_RATE, draw.uniform(1.5, 2.5))


def band_noise(draw: Draw) -> Wave:
    """Noise of a narrow band."""
    low = _log_uniform(draw, 100, 4000)
    return _band(_noise(draw, 4 * SAMPLE_RATE, 0), low, low * draw.uniform(1.1, 1.8))


def wind(draw: Draw) -> Wave:
    """Dark noise in gusts with a wandering whistle."""
    samples = 4 * SAMPLE_RATE
    gusts = _slow(draw, samples, draw.uniform(0.5, 2)) ** 2
    whistle = np.sin(2 * np.pi * np.cumsum(300 + 500 * gusts) / SAMPLE_RATE) * _noise(draw, samples, 2)
    return gusts * (_noise(draw, samples, draw.uniform(1, 2)) + draw.uniform(0, 0.3) * whistle)


def rain(draw: Draw) -> Wave:
    """Many small drops over hiss."""
    samples = 4 * SAMPLE_RATE
    drops = (draw.random(samples) < _log_uniform(draw, 200, 4000) / SAMPLE_RATE) * draw.exponential(1, samples)
    drops = _band(drops, _log_uniform(draw, 500, 2000), _log_uniform(draw, 4000, 7500))
    return _peak(drops) + draw.uniform(0.05, 0.5) * _band(_noise(draw, samples, 0), 400, 7500)


def waves(draw: Draw) -> Wave:
    """Noise that swells and falls back."""
    samples = 4 * SAMPLE_RATE
    swell = 0.1 + np.sin(np.pi * (_time(4) * draw.uniform(0.1, 0.4) + draw.random())) ** 2
    return _noise(draw, samples, draw.uniform(0.5, 1.5)) * swell + 0.2 * _noise(draw, samples, 0) * swell**3


def crackle(draw: Draw) -> Wave:
    """Irregular snaps over a faint rumble."""
    samples = 4 * SAMPLE_RATE
    snaps = (draw.random(samples) < _log_uniform(draw, 4, 60) / SAMPLE_RATE) * draw.exponential(1, samples)
    ring = _decay(draw.standard_normal(200), draw.uniform(0.0005, 0.003))
    return _peak(np.convolve(snaps, ring)[:samples]) + draw.uniform(0.01, 0.2) * _noise(draw, samples, 1.5)


def ticks(draw: Draw) -> Wave:
    """Clicks at even distances."""
    sharp = draw.uniform(0.0005, 0.004)
    center = _log_uniform(draw, 800, 5000)
    click = _decay(np.sin(2 * np.pi * center * _time(0.03)) + 0.3 * draw.standard_normal(480), sharp)
    even = _repeat(lambda: click, draw, 4, draw.choice([0.25, 0.5, 1.0]) * draw.uniform(0.8, 1.2), 0.01)
    return even + 0.002 * draw.standard_normal(len(even))


def knocks(draw: Draw) -> Wave:
    """Dull blows in groups."""
    body = _log_uniform(draw, 80, 500)
    event = lambda: _decay(  # noqa: E731
        np.sin(2 * np.pi * body * _time(0.2)) + 0.3 * draw.standard_normal(3200), draw.uniform(0.01, 0.04)
    )
    return _repeat(event, draw, 4, draw.uniform(0.12, 0.7), 0.3)


def steps(draw: Draw) -> Wave:
    """Footsteps: short bursts of noise."""
    dark = draw.uniform(0.5, 2)
    event = lambda: _decay(_noise(draw, 3200, dark), draw.uniform(0.015, 0.05))  # noqa: E731
    return _repeat(event, draw, 4, draw.uniform(0.3, 0.8), 0.05)


def bird(draw: Draw) -> Wave:
    """Fast sweeps of a high whistle."""

    def event() -> Wave:
        time = np.linspace(0, 1, int(draw.uniform(0.05, 0.25) * SAMPLE_RATE))
        curve = base * (1 + draw.uniform(-0.4, 0.4) * time + draw.uniform(0, 0.2) * np.sin(25 * time))
        return np.sin(2 * np.pi * np.cumsum(curve) / SAMPLE_RATE) * np.sin(np.pi * time)

    base = _log_uniform(draw, 1800, 5000)
    return _repeat(event, draw, 4, draw.uniform(0.15, 0.8), 0.4)


def _voiced(draw: Draw, curve: Wave, rough: float) -> Wave:
    """A harmonic source through two resonances, with some breath."""
    source = _harmonics(curve, draw, 40, 0.7) + rough * draw.standard_normal(len(curve))
    first, second = draw.uniform(500, 1100), draw.uniform(1200, 3000)
    return _band(source, first * 0.8, first * 1.2) + 0.5 * _band(source, second * 0.85, second * 1.15)


def bark(draw: Draw) -> Wave:
    """Short, rough, falling voiced bursts."""
    base = _log_uniform(draw, 150, 700)

    def event() -> Wave:
        time = np.linspace(0, 1, int(draw.uniform(0.08, 0.25) * SAMPLE_RATE))
        return _voiced(draw, base * (1.2 - 0.6 * time), 2.0) * np.sin(np.pi * time) ** 0.5

    return _repeat(event, draw, 4, draw.uniform(0.3, 1.5), 0.3)


def wail(draw: Draw) -> Wave:
    """Long voiced cries that glide."""
    base = _log_uniform(draw, 280, 700)

    def event() -> Wave:
        time = np.linspace(0, 1, int(draw.uniform(0.4, 1) * SAMPLE_RATE))
        vibrato = 1 + 0.03 * np.sin(2 * np.pi * draw.uniform(4, 9) * time)
        return _voiced(draw, base * (0.8 + 0.5 * np.sin(np.pi * time)) * vibrato, 0.3) * np.sin(np.pi * time)

    return _repeat(event, draw, 4, draw.uniform(0.7, 1.4), 0.1)


def burst(draw: Draw) -> Wave:
    """One explosive burst of breath-like noise."""
    rise = _noise(draw, int(draw.uniform(0.1, 0.6) * SAMPLE_RATE), 0.5) * 0.2
    rise *= np.linspace(0, 1, len(rise)) ** 2
    blow = _decay(
        _band(draw.standard_normal(SAMPLE_RATE), _log_uniform(draw, 300, 2000), 7000), draw.uniform(0.03, 0.2)
    )
    return np.concatenate([rise, _peak(blow)])


def whoosh(draw: Draw) -> Wave:
    """Noise whose band passes by."""
    samples = int(draw.uniform(0.5, 2) * SAMPLE_RATE)
    envelope = np.sin(np.pi * np.linspace(0, 1, samples)) ** 2
    low, high = _band(draw.standard_normal(samples), 150, 800), _band(draw.standard_normal(samples), 1000, 5000)
    return envelope * low + envelope**4 * high


EVENTS = {
    event.__name__: event
    for event in (
        *(tone, sweep_up, sweep_down, siren, beeps, bell, pluck, drone, engine, saw, rotor),
        *(white_noise, brown_noise, band_noise, wind, rain, waves, crackle, ticks, knocks),
        *(steps, bird, bark, wail, burst, whoosh),
    )
}


def draw_event(name: str, draw: Draw) -> Wave:
    """Draws one event of a class of `EVENTS`: a waveform ``[time]`` at 16 kHz with a peak of 1.

    Example
    -------
    >>> waveform = draw_event("rain", np.random.default_rng(0))
    >>> bool(np.isclose(np.abs(waveform).max(), 1))
    True
    """
    return _peak(EVENTS[name](draw))
