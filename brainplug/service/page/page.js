// The page: takes a clip, asks the service, and shows what it answers.

import { decode, drawSpectrogram, drawWaveform, encodeWav, heightOf, RATE } from "./sound.js";

const UNTOUCHED = { echoCancellation: false, noiseSuppression: false, autoGainControl: false }; // they are for calls
const TICKS = [0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300, 600]; // seconds from one to the next
const HERTZ = [500, 1000, 2000, 4000];
const TOKEN = "brainplug-token";

const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((node) => [node.id, node]));
let limits = {};
let longest = Infinity; // clip or window that every adapter takes, in seconds
let seconds = null; // of the clip, as this browser decodes it
let recorder = null;
let request = new AbortController();

/** Makes an element. */
function make(tag, properties = {}, ...children) {
  const node = Object.assign(document.createElement(tag), properties);
  node.append(...children);
  return node;
}

/** Calls an action at an event, and shows its error. */
function on(node, type, action) {
  node.addEventListener(type, (event) => attempt(() => action(event)));
}

async function attempt(action) {
  try {
    await action();
  } catch (error) {
    if (error.name !== "AbortError") showAlert(error.message);
  }
}

function showAlert(text) {
  at.alert.textContent = text;
  at.alert.hidden = !text;
}

/** The answer of the service; what it refuses is an error with its words. */
async function ask(path, options = {}) {
  const headers = at.token.value ? { Authorization: `Bearer ${at.token.value}` } : {};
  const [ok, answer] = await fetchJson(path, { ...options, headers }).catch((error) => {
    throw error.name === "AbortError" ? error : new Error(`The service does not answer as it should: ${error.message}.`);
  });
  if (!ok) throw new Error(answer.detail);
  return answer;
}

async function fetchJson(path, options) {
  const response = await fetch(path, options);
  return [response.ok, await response.json()];
}

// What the service has

async function start() {
  limits = await ask("health");
  at.limits.textContent = `At most ${limits.max_upload_mb} MB and ${limits.max_seconds} s.`;
  at.secret.hidden = !limits.needs_token;
  if (limits.needs_token) at.token.value = sessionStorage.getItem(TOKEN) ?? "";
  if (limits.needs_token && !at.token.value) at.adapters.replaceChildren(make("li", {}, "The service lists them to those with its token."));
  else await showAdapters();
}

async function takeToken(event) {
  event.preventDefault();
  sessionStorage.setItem(TOKEN, at.token.value);
  showAlert("");
  await showAdapters();
}

async function showAdapters() {
  at.adapters.replaceChildren();
  const adapters = await ask("adapters");
  longest = Math.min(...adapters.map((adapter) => adapter.longest_clip));
  at.adapters.replaceChildren(...adapters.map(choiceOf));
}

function choiceOf(adapter, index) {
  const box = make("input", { type: "checkbox", name: "adapters", value: adapter.name, checked: index === 0 });
  const backbone = make("span", { className: "note" }, ` on ${adapter.backbone}, at most ${round(adapter.longest_clip)} s at once`);
  const classes = make("details", {}, make("summary", {}, `${adapter.labels.length} classes`), adapter.labels.join(", "));
  return make("li", {}, make("label", {}, box, " ", make("strong", {}, adapter.name), backbone), classes);
}

// The clip

async function takeClip() {
  const [file] = at.file.files;
  reset();
  if (!file) return;
  at.name.textContent = file.name;
  at.player.src = URL.createObjectURL(file);
  at.result.hidden = false;
  at.empty.hidden = true;
  const samples = await decode(file).catch(() => null);
  if (at.file.files[0] === file) showSound(samples);
}

/** Forgets the former clip, and what is asked of it. */
function reset() {
  request.abort();
  showAlert("");
  seconds = null;
  URL.revokeObjectURL(at.player.src);
  at.player.removeAttribute("src");
  for (const node of [at.result, at.undrawn, at.timeline, at.playhead]) node.hidden = true;
  at.empty.hidden = false;
  for (const node of [at.status, at.seconds, at.events, at.answers]) node.replaceChildren();
}

function showSound(samples) {
  at.undrawn.hidden = samples !== null;
  at.pictures.hidden = samples === null;
  if (samples === null) return;
  seconds = samples.length / RATE;
  at.seconds.textContent = `${seconds.toFixed(1)} s`;
  if (seconds > longest) at.options.open = true; // it needs a window
  at.timeline.hidden = false;
  showAxis(seconds);
  drawWaveform(at.waveform, samples);
  drawSpectrogram(at.spectrogram, samples);
}

function showAxis(length) {
  const step = TICKS.find((one) => length / one <= 10) ?? 3600;
  const times = Array.from({ length: Math.floor(length / step) + 1 }, (_, index) => index * step);
  at.axis.replaceChildren(...times.map((time) => place(make("span", {}, round(time)), "left", time / length)));
}

function showHertz() {
  const ticks = HERTZ.map((hertz) => place(make("span", {}, `${hertz / 1000}`), "bottom", heightOf(hertz)));
  at.hertz.replaceChildren(...ticks, make("b", {}, "kHz"));
}

function place(node, side, share) {
  node.style[side] = `${100 * share}%`;
  return node;
}

/** Files may be dropped anywhere: elsewhere a browser would leave the page for the file. */
function dragOver(event) {
  event.preventDefault();
  at.clip.classList.add("over");
}

function drop(event) {
  event.preventDefault();
  at.clip.classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file) choose(file);
}

/** Puts a file where the form has its own. */
function choose(file) {
  const transfer = new DataTransfer(); // only it makes a list of files
  transfer.items.add(file);
  at.file.files = transfer.files;
  at.file.dispatchEvent(new Event("change"));
}

// Recording

async function record() {
  if (recorder) {
    recorder.stop();
    return;
  }
  showAlert("");
  if (!navigator.mediaDevices) throw new Error("Browsers record only on pages of https, or of this machine.");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: UNTOUCHED }).catch((error) => {
    throw new Error(`The microphone cannot be used: ${error.message}.`);
  });
  const parts = [];
  recorder = new MediaRecorder(stream);
  on(recorder, "dataavailable", (event) => parts.push(event.data));
  on(recorder, "stop", () => takeRecording(stream, parts));
  recorder.start();
  at.record.textContent = "Stop";
  at.recording.textContent = "Recording";
  showTime(recorder, Date.now());
}

/** Shows how long a recording is, and ends it at the service's limit. */
function showTime(current, started) {
  if (current.state === "inactive") return;
  const passed = (Date.now() - started) / 1000;
  at.record.textContent = `Stop after ${Math.floor(passed)} s`;
  if (passed >= limits.max_seconds - 1) current.stop();
  else setTimeout(() => showTime(current, started), 200);
}

async function takeRecording(stream, parts) {
  recorder = null;
  stream.getTracks().forEach((track) => track.stop());
  at.record.textContent = "Record";
  at.recording.textContent = "";
  const wav = encodeWav(await decode(new Blob(parts)));
  choose(new File([wav], "recording.wav", { type: wav.type }));
}

// Classification

async function classify(event) {
  event.preventDefault();
  if (at.form.ariaBusy === "true") return;
  showAlert("");
  const form = checkedForm();
  request = new AbortController();
  setBusy(true);
  try {
    showAnswer(await ask("classify", { method: "POST", body: form, signal: request.signal }));
  } finally {
    setBusy(false);
  }
}

/** What is sent: fields that are empty are left to the service. */
function checkedForm() {
  const form = new FormData(at.form), [file] = at.file.files;
  if (!file) throw new Error("There is no clip. Choose, drop or record one.");
  if (!form.has("adapters")) throw new Error("No adapter is chosen. Check one, or several.");
  if (file.size > 1e6 * limits.max_upload_mb) {
    throw new Error(`The clip has ${round(file.size / 1e6)} MB, and the service takes ${limits.max_upload_mb} MB.`);
  }
  for (const [name, value] of [...form]) if (value === "") form.delete(name);
  return form;
}

function setBusy(busy) {
  at.form.ariaBusy = at.classify.ariaDisabled = busy; // a button that is disabled would lose the focus
  at.classify.textContent = busy ? "Classifying …" : "Classify";
  if (busy) for (const node of [at.status, at.events, at.answers]) node.replaceChildren();
}

function showAnswer(answer) {
  const length = seconds ?? answer.seconds;
  if (seconds === null) showAxis(length);
  at.timeline.hidden = false;
  at.status.textContent = `Results of ${round(answer.seconds)} s of sound.`;
  at.answers.replaceChildren(...answer.remarks.map((text) => make("p", { className: "remark" }, text)));
  at.answers.append(...answer.results.map(barsOf));
  if (at.window.value) at.events.replaceChildren(...answer.results.map((result) => eventsOf(result, length)));
  at.result.scrollIntoView({ block: "nearest" });
}

function barsOf(result) {
  const rows = result.labels.map(({ label, probability }) => {
    const bar = make("span", { className: "bar" }, place(make("span"), "width", probability));
    return make("li", {}, make("span", {}, label), make("span", {}, percent(probability)), bar);
  });
  return make("article", {}, make("h2", {}, result.adapter), make("ol", { className: "bars" }, ...rows));
}

function eventsOf(result, length) {
  const labels = [...new Set(result.events.map((event) => event.label))];
  const rows = labels.map((label) => {
    const events = result.events.filter((event) => event.label === label);
    const track = make("ul", { className: "track" }, ...events.map((event) => make("li", {}, buttonOf(event, length))));
    return make("div", { className: "row" }, make("span", { className: "side" }, label), track);
  });
  const none = make("p", { className: "note" }, "No class reaches the probability of an event.");
  return make("article", {}, make("h2", {}, `Events of ${result.adapter}`), ...(rows.length ? rows : [none]));
}

/** An event on the time line: a click plays it. */
function buttonOf(event, length) {
  const text = `${event.label}, ${round(event.start)}–${round(event.stop)} s, ${percent(event.score)}`;
  const button = make("button", { type: "button", ariaLabel: text });
  button.classList.toggle("late", event.start > 0.4 * length); // its text opens to the left
  on(button, "click", () => play(event.start));
  return place(place(button, "left", event.start / length), "width", (event.stop - event.start) / length);
}

async function play(start) {
  at.player.currentTime = start;
  await at.player.play();
}

function seek(event) {
  at.player.currentTime = seconds * event.offsetX / event.currentTarget.clientWidth;
}

function showPlayhead() {
  at.playhead.hidden = false;
  at.playhead.style.setProperty("--share", at.player.currentTime / (seconds ?? at.player.duration));
}

function percent(share) {
  return `${(100 * share).toFixed(1)}\u00a0%`;
}

function round(number) {
  return String(Math.round(100 * number) / 100);
}

on(at.file, "change", takeClip);
on(document, "dragover", dragOver);
on(document, "dragleave", () => at.clip.classList.remove("over"));
on(document, "drop", drop);
on(at.record, "click", record);
on(at.secret, "submit", takeToken);
on(at.form, "submit", classify);
on(at.player, "timeupdate", showPlayhead);
for (const picture of [at.waveform, at.spectrogram]) on(picture, "click", seek);
at.options.addEventListener("invalid", () => { at.options.open = true; }, true); // else the fault is not seen
showHertz();
attempt(start);
