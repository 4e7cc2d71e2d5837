// The page: chooses a clip and adapters, asks the service, and shows what it answers.

import { decode, drawAxis, drawSpectrogram, drawWave, record } from "./sound.js";

const byId = (id) => document.getElementById(id);
const audio = byId("audio");
let clip = null; // the File
let sound = null; // its samples, where the browser can decode it
let stopRecording = null;

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const seconds = (time) => `${time.toFixed(2)} s`;

function headers() {
  const token = byId("token").value;
  if (token) sessionStorage.setItem("token", token);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

// The answer of the service; its own words if it refuses.
async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: headers() });
  } catch {
    throw new Error("The service does not answer.");
  }
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.detail ?? `The service answers ${response.status}.`);
  return answer;
}

function showProblem(error) {
  byId("problem").textContent = error ? error.message : "";
  byId("problem").hidden = !error;
}

async function start() {
  byId("token").value = sessionStorage.getItem("token") ?? "";
  try {
    const health = await ask("/health");
    byId("token-field").hidden = !health.needs_token;
    byId("limits").textContent =
      `Choose a file, drop one here, or record. At most ${health.max_upload_mb} MB and ${health.max_seconds} s.`;
    if (!health.needs_token || byId("token").value) await showAdapters();
    else byId("adapters").replaceChildren(make("p", { className: "hint", textContent: "Write the token below." }));
  } catch (error) {
    showProblem(error);
  }
}

async function showAdapters() {
  const adapters = await ask("/adapters");
  const chosen = new Set(checkedAdapters());
  byId("adapters").replaceChildren(...adapters.map(({ name, labels, backbone }, index) => {
    const box = make("input", { type: "checkbox", name: "adapters", value: name });
    box.checked = chosen.size ? chosen.has(name) : index === 0;
    const shown = labels.slice(0, 12).join(", ") + (labels.length > 12 ? ` and ${labels.length - 12} more` : "");
    const about = make("span", { className: "hint", textContent: `${backbone}: ${shown}` });
    return make("label", { className: "adapter" }, box, make("span", {}, make("strong", { textContent: name }), " ", about));
  }));
}

const checkedAdapters = () => [...document.querySelectorAll("input[name=adapters]:checked")].map((box) => box.value);

async function choose(file) {
  clip = file;
  showProblem(null);
  byId("results").replaceChildren();
  byId("events").replaceChildren();
  URL.revokeObjectURL(audio.src);
  audio.src = URL.createObjectURL(file);
  audio.hidden = false;
  sound = await decode(file);
  byId("sound").hidden = !sound;
  drawSound();
}

function drawSound() {
  if (!sound) return;
  drawWave(byId("wave"), sound);
  drawSpectrogram(byId("spectrogram"), sound);
  drawAxis(byId("axis"), sound);
}

function movePlayhead() {
  const head = byId("playhead");
  head.hidden = !sound || audio.currentTime === 0;
  if (sound) head.style.left = `${100 * Math.min(1, audio.currentTime / sound.seconds)}%`;
}

function makeForm() {
  const form = new FormData();
  form.append("file", clip);
  checkedAdapters().forEach((name) => form.append("adapters", name));
  document.querySelectorAll("#long input").forEach((field) => { if (field.value) form.append(field.name, field.value); });
  return form;
}

async function classify(event) {
  event.preventDefault();
  showProblem(null);
  if (!clip) return showProblem(new Error("There is no clip. Choose a file, or record one."));
  if (byId("token-field").hidden === false && !checkedAdapters().length) await showAdapters().catch(showProblem);
  if (!checkedAdapters().length) return showProblem(new Error("No adapter is chosen."));
  byId("classify").disabled = true;
  byId("busy").textContent = "Classifying…";
  byId("results").replaceChildren();
  byId("events").replaceChildren();
  try {
    showAnswer(await ask("/classify", { method: "POST", body: makeForm() }));
  } catch (error) {
    showProblem(error);
  } finally {
    byId("classify").disabled = false;
    byId("busy").textContent = "";
  }
}

function showAnswer({ seconds: length, remarks, results }) {
  byId("results").replaceChildren(
    ...remarks.map((text) => make("p", { className: "hint", textContent: text })),
    ...results.map((result) => showResult(result, length)),
  );
  const withEvents = results.filter(({ events }) => events.length);
  byId("sound").hidden = !sound && !withEvents.length;
  byId("events").replaceChildren(...withEvents.flatMap((result) => showEvents(result, length)));
}

function showResult({ adapter, labels, windows, events }) {
  const rows = labels.map(({ label, probability }) => {
    const bar = make("span", { className: "bar" });
    bar.style.width = `${100 * probability}%`;
    return make("tr", {},
      make("th", { className: "name", scope: "row", textContent: label }),
      make("td", {}, bar),
      make("td", { className: "number", textContent: percent(probability) }));
  });
  const about = windows.length ? `Means over ${windows.length} windows; ${events.length} events.` : "";
  return make("article", { className: "card" },
    make("h2", { textContent: adapter }),
    make("p", { className: "hint", textContent: about, hidden: !about }),
    make("table", {}, make("tbody", {}, ...rows)),
    ...(events.length ? [listEvents(events)] : []));
}

function listEvents(events) {
  const rows = events.map(({ start, stop, label, score }) => make("tr", {},
    make("td", { textContent: seconds(start) }), make("td", { textContent: seconds(stop) }),
    make("td", { textContent: label }), make("td", { className: "number", textContent: percent(score) })));
  const head = ["from", "to", "class", "score"].map((text) => make("th", { scope: "col", textContent: text }));
  return make("details", {}, make("summary", { textContent: "Events as a list" }),
    make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)));
}

// A line for each class, under the spectrogram and with its time axis.
function showEvents({ adapter, events }, length) {
  return [...new Set(events.map(({ label }) => label))].map((label) => {
    const line = make("div", { className: "track-line" });
    events.filter((event) => event.label === label).forEach(({ start, stop, score }) => {
      const text = `${label}, ${seconds(start)} to ${seconds(stop)}, ${percent(score)}`;
      const button = make("button", { type: "button", className: "event", title: text, ariaLabel: `Play ${text}` });
      button.style.left = `${100 * start / length}%`;
      button.style.width = `${100 * (stop - start) / length}%`;
      button.onclick = () => { audio.currentTime = start; audio.play(); };
      line.append(button);
    });
    return make("div", { className: "track" }, make("span", { className: "track-name", textContent: `${adapter}: ${label}` }), line);
  });
}

async function toggleRecording() {
  const button = byId("record");
  showProblem(null);
  try {
    if (stopRecording) {
      const stop = stopRecording;
      stopRecording = null;
      await choose(await stop());
      byId("file").value = "";
    } else {
      stopRecording = await record();
    }
  } catch (error) {
    showProblem(new Error(`Nothing was recorded: ${error.message}`));
  }
  button.textContent = stopRecording ? "Stop" : "Record";
  button.ariaPressed = String(Boolean(stopRecording));
}

function drop(event) {
  event.preventDefault();
  byId("drop").classList.toggle("dropping", event.type === "dragover");
  if (event.type === "drop" && event.dataTransfer.files.length) choose(event.dataTransfer.files[0]);
}

byId("form").onsubmit = classify;
byId("file").onchange = ({ target }) => { if (target.files.length) choose(target.files[0]); };
byId("record").onclick = toggleRecording;
byId("token").onchange = () => showAdapters().then(() => showProblem(null), showProblem);
["dragover", "dragleave", "drop"].forEach((name) => byId("drop").addEventListener(name, drop));
audio.ontimeupdate = movePlayhead;
window.onresize = drawSound;
matchMedia("(prefers-color-scheme: dark)").onchange = drawSound;
start();
