// Decodes, records and draws sound.

const RATE = 16000; // Hz: what the models read
const SIZE = 512; // samples of a frame of the spectrogram
const COLORS = [[0, 0, 20], [60, 15, 110], [150, 40, 120], [230, 95, 65], [252, 190, 80], [252, 255, 190]];
const DECIBELS = 80; // from the loudest point to the darkest

// The samples of all channels' mean; null if the browser cannot decode the file.
export async function decode(blob) {
  const context = new OfflineAudioContext(1, 1, RATE);
  try {
    const buffer = await context.decodeAudioData(await blob.arrayBuffer());
    const samples = new Float32Array(buffer.length);
    for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
      buffer.getChannelData(channel).forEach((value, index) => { samples[index] += value / buffer.numberOfChannels; });
    }
    return { samples, rate: buffer.sampleRate, seconds: buffer.duration };
  } catch {
    return null;
  }
}

// Records from the microphone; the function that it returns ends the recording and gives a WAV file.
export async function record() {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.ondataavailable = (event) => parts.push(event.data);
  recorder.start();
  return () => new Promise((resolve, reject) => {
    recorder.onstop = async () => {
      stream.getTracks().forEach((track) => track.stop());
      const sound = await decode(new Blob(parts, { type: recorder.mimeType }));
      if (sound) resolve(new File([encodeWav(sound)], "recording.wav", { type: "audio/wav" }));
      else reject(new Error("The recording is empty."));
    };
    recorder.stop();
  });
}

// 16 bits, one channel. Browsers record in formats that not every service can decode.
export function encodeWav({ samples, rate }) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (position, letters) => [...letters].forEach((letter, n) => view.setUint8(position + n, letter.charCodeAt(0)));
  text(0, "RIFF"); text(8, "WAVEfmt "); text(36, "data");
  view.setUint32(4, 36 + 2 * samples.length, true);
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((value, n) => view.setInt16(44 + 2 * n, Math.round(32767 * Math.max(-1, Math.min(1, value))), true));
  return view.buffer;
}

// Fits a canvas to its width on the screen, and returns what draws on it.
function prepare(canvas) {
  const ratio = window.devicePixelRatio || 1;
  const height = Number(canvas.dataset.height ??= canvas.height);
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * ratio));
  canvas.height = Math.round(height * ratio);
  return { draw: canvas.getContext("2d"), width: canvas.width, height: canvas.height, ratio };
}

const colorOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(name);

export function drawWave(canvas, { samples }) {
  const { draw, width, height } = prepare(canvas);
  draw.fillStyle = colorOf("--wave");
  for (let x = 0; x < width; x++) {
    const piece = samples.subarray(Math.floor(x * samples.length / width), Math.floor((x + 1) * samples.length / width) + 1);
    let low = 0, high = 0;
    for (const value of piece) { low = Math.min(low, value); high = Math.max(high, value); }
    draw.fillRect(x, height * (1 - high) / 2, 1, Math.max(1, height * (high - low) / 2));
  }
}

export function drawSpectrogram(canvas, { samples }) {
  const { draw, width, height, ratio } = prepare(canvas);
  const columns = Array.from({ length: width }, (_, x) => decibels(samples, Math.round((x + 0.5) * samples.length / width)));
  const loudest = columns.reduce((most, column) => column.reduce((a, b) => Math.max(a, b), most), -200);
  const image = draw.createImageData(width, height);
  columns.forEach((column, x) => {
    for (let y = 0; y < height; y++) {
      const level = column[Math.floor((1 - (y + 0.5) / height) * column.length)];
      image.data.set([...colorAt(1 + (level - loudest) / DECIBELS), 255], 4 * (y * width + x));
    }
  });
  draw.putImageData(image, 0, 0);
  draw.fillStyle = "white";
  draw.font = `${11 * ratio}px system-ui, sans-serif`;
  draw.fillText(`${RATE / 2000} kHz`, 4 * ratio, 13 * ratio);
}

export function drawAxis(canvas, { seconds }) {
  const { draw, width, height, ratio } = prepare(canvas);
  const step = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1800, 3600].find((s) => width * s / seconds > 55 * ratio) ?? 7200;
  draw.fillStyle = colorOf("--soft");
  draw.font = `${11 * ratio}px system-ui, sans-serif`;
  for (let time = 0; time <= seconds; time += step) {
    const x = width * time / seconds;
    const label = `${Number(time.toFixed(1))} s`;
    draw.fillRect(Math.min(x, width - 1), 0, 1, 5 * ratio);
    draw.textAlign = time === 0 ? "left" : "center";
    if (x + draw.measureText(label).width / 2 <= width) draw.fillText(label, x, height - 4 * ratio);
  }
}

// Power in decibels of the frequencies around a sample, lowest first.
function decibels(samples, middle) {
  const real = new Float32Array(SIZE), imaginary = new Float32Array(SIZE);
  for (let n = 0; n < SIZE; n++) {
    const hann = 0.5 - 0.5 * Math.cos(2 * Math.PI * n / SIZE);
    real[n] = (samples[middle - SIZE / 2 + n] ?? 0) * hann;
  }
  transform(real, imaginary);
  return Array.from({ length: SIZE / 2 }, (_, n) => 10 * Math.log10(real[n] ** 2 + imaginary[n] ** 2 + 1e-10));
}

// The fast Fourier transform of Cooley and Tukey, in place.
function transform(real, imaginary) {
  const size = real.length;
  for (let n = 1, reversed = 0; n < size; n++) {
    let bit = size >> 1;
    for (; reversed & bit; bit >>= 1) reversed ^= bit;
    reversed ^= bit;
    if (n < reversed) [real[n], real[reversed]] = [real[reversed], real[n]];
  }
  for (let half = 1; half < size; half *= 2) {
    for (let k = 0; k < half; k++) {
      const cosine = Math.cos(Math.PI * k / half), sine = -Math.sin(Math.PI * k / half);
      for (let n = k; n < size; n += 2 * half) {
        const a = real[n + half] * cosine - imaginary[n + half] * sine;
        const b = real[n + half] * sine + imaginary[n + half] * cosine;
        real[n + half] = real[n] - a; imaginary[n + half] = imaginary[n] - b;
        real[n] += a; imaginary[n] += b;
      }
    }
  }
}

function colorAt(share) {
  const position = Math.max(0, Math.min(0.9999, share)) * (COLORS.length - 1);
  const [low, high] = [COLORS[Math.floor(position)], COLORS[Math.floor(position) + 1]];
  return low.map((value, n) => value + (high[n] - value) * (position % 1));
}
