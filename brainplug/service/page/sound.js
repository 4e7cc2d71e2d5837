// Decodes clips, writes WAV, and draws the waveform and the spectrogram.

export const RATE = 16000; // hertz, as backbones read: the pictures show no more than a model gets
const SIZE = 512; // samples of one spectrum, 32 ms
const SPECTRA = 8; // the most that are averaged in a column, so that a long recording is drawn soon
const RANGE = 70; // dB below the loudest point that are drawn
const COLORS = [[0, 0, 4], [59, 15, 112], [140, 41, 129], [222, 73, 104], [254, 159, 109], [252, 253, 191]];
const PALETTE = Array.from({ length: 256 }, (_, index) => [...color(index / 255), 255]); // from the weakest on
const ANGLES = Array.from({ length: SIZE / 2 }, (_, index) => -2 * Math.PI * index / SIZE);
const COS = ANGLES.map(Math.cos), SIN = ANGLES.map(Math.sin);

/** The samples of an audio file: one channel, at RATE. */
export async function decode(file) {
  const context = new OfflineAudioContext(1, 1, RATE); // it resamples what it decodes
  const sound = await context.decodeAudioData(await file.arrayBuffer());
  const mean = new Float32Array(sound.length);
  for (let channel = 0; channel < sound.numberOfChannels; channel++) {
    sound.getChannelData(channel).forEach((value, at) => { mean[at] += value / sound.numberOfChannels; });
  }
  return mean;
}

/** A WAV file of samples at RATE: 16 bits, one channel. */
export function encodeWav(samples) {
  const bytes = 2 * samples.length;
  const view = new DataView(new ArrayBuffer(44 + bytes));
  const write = (at, text) => [...text].forEach((letter, index) => view.setUint8(at + index, letter.charCodeAt(0)));
  write(0, "RIFF");
  view.setUint32(4, 36 + bytes, true);
  write(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, RATE, true);
  view.setUint32(28, 2 * RATE, true); // bytes of a second
  view.setUint16(32, 2, true); // bytes of a sample, all channels
  view.setUint16(34, 16, true); // bits
  write(36, "data");
  view.setUint32(40, bytes, true);
  samples.forEach((value, at) => view.setInt16(44 + 2 * at, 32767 * Math.max(-1, Math.min(1, value)), true));
  return new Blob([view], { type: "audio/wav" });
}

/** Draws the lowest and highest sample of each column; the loudest fills the height. */
export function drawWaveform(canvas, samples) {
  const { width, height } = canvas, context = canvas.getContext("2d");
  const loudest = samples.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
  context.clearRect(0, 0, width, height);
  context.fillStyle = getComputedStyle(canvas).color;
  for (let x = 0; x < width; x++) {
    const part = column(samples, x, width);
    const low = part.reduce((least, value) => Math.min(least, value), 0) / loudest;
    const high = part.reduce((most, value) => Math.max(most, value), 0) / loudest;
    context.fillRect(x, (1 - high) * height / 2, 1, Math.max(1, (high - low) * height / 2));
  }
}

/** Draws decibels over time and mel frequency, up to RATE / 2. */
export function drawSpectrogram(canvas, samples) {
  const { width, height } = canvas, context = canvas.getContext("2d");
  const columns = Array.from({ length: width }, (_, x) => meanPower(samples, x, width));
  const loudest = columns.reduce((most, powers) => powers.reduce((a, b) => Math.max(a, b), most), 1e-9);
  const image = context.createImageData(width, height);
  for (let y = 0; y < height; y++) {
    const bin = hertzAt(1 - (y + 0.5) / height) * SIZE / RATE;
    for (let x = 0; x < width; x++) {
      const level = 1 + 10 * Math.log10(interpolate(columns[x], bin) / loudest + 1e-12) / RANGE;
      image.data.set(PALETTE[Math.round(255 * Math.max(0, level))], 4 * (y * width + x));
    }
  }
  context.putImageData(image, 0, 0);
}

/** The height of a frequency in the spectrogram: 0 at the bottom, 1 at the top. */
export function heightOf(hertz) {
  return Math.log1p(hertz / 700) / Math.log1p(RATE / 2 / 700);
}

function hertzAt(height) {
  return 700 * Math.expm1(height * Math.log1p(RATE / 2 / 700));
}

function column(samples, x, width) {
  const start = Math.floor(x * samples.length / width);
  return samples.subarray(start, Math.max(start + 1, Math.floor((x + 1) * samples.length / width)));
}

/** The mean of the power spectra that are centered in a column. */
function meanPower(samples, x, width) {
  const step = samples.length / width;
  const count = Math.max(1, Math.min(SPECTRA, Math.round(2 * step / SIZE)));
  const mean = new Float64Array(SIZE / 2 + 1);
  for (let index = 0; index < count; index++) {
    const center = Math.floor((x + (index + 0.5) / count) * step);
    power(samples, center - SIZE / 2).forEach((value, bin) => { mean[bin] += value / count; });
  }
  return mean;
}

/** The power of each frequency in SIZE samples under a Hann window; there is silence around the clip. */
export function power(samples, start) {
  const real = new Float64Array(SIZE), imaginary = new Float64Array(SIZE);
  for (let at = 0; at < SIZE; at++) {
    real[at] = (samples[start + at] ?? 0) * (0.5 - 0.5 * Math.cos(2 * Math.PI * at / SIZE));
  }
  transform(real, imaginary);
  return real.subarray(0, SIZE / 2 + 1).map((value, bin) => value ** 2 + imaginary[bin] ** 2);
}

/** The discrete Fourier transform of SIZE numbers, in place. */
function transform(real, imaginary) {
  reverseBits(real);
  for (let length = 2; length <= real.length; length *= 2) {
    for (let first = 0; first < real.length; first += length) {
      for (let at = 0; at < length / 2; at++) {
        butterfly(real, imaginary, first + at, first + at + length / 2, at * SIZE / length);
      }
    }
  }
}

/** Puts each number where the bits of its place are reversed. */
function reverseBits(values) {
  for (let at = 1, reversed = 0; at < values.length; at++) {
    let bit = values.length / 2;
    for (; reversed & bit; bit /= 2) reversed ^= bit;
    reversed ^= bit;
    if (at < reversed) [values[at], values[reversed]] = [values[reversed], values[at]];
  }
}

function butterfly(real, imaginary, a, b, angle) {
  const cos = COS[angle], sin = SIN[angle];
  const x = real[b] * cos - imaginary[b] * sin, y = real[b] * sin + imaginary[b] * cos;
  [real[a], real[b]] = [real[a] + x, real[a] - x];
  [imaginary[a], imaginary[b]] = [imaginary[a] + y, imaginary[a] - y];
}

function interpolate(values, place) {
  const below = Math.min(Math.floor(place), values.length - 2), share = place - below;
  return (1 - share) * values[below] + share * values[below + 1];
}

/** The color of a level from 0 to 1. */
function color(level) {
  const place = level * (COLORS.length - 1);
  return [0, 1, 2].map((part) => interpolate(COLORS.map((one) => one[part]), place));
}
