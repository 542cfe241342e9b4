"use strict";
const BINS = 40, LEFT = 64, BELOW = 40, GAP = 10;
let info = null, y = [], truth = null, seed = 0, shown = null;

let working = false, wanted = false;
async function update() { // one request at a time; of those asked for meanwhile, the last
  wanted = true;
  if (working) return;
  working = true;
  try {
    while (wanted) {
      wanted = false;
      const asked = [...y];
      const found = await ask("api/sample", {y: asked, n: Number(at("count").value), seed});
      shown = found.samples;
      draw();
      at("status").textContent = `${shown.length} samples: ${found.milliseconds.toFixed(0)} ms, ` +
        `${found.calls} network calls each` + (found.far ? "; y lies far outside the training's" : "");
      at("corner").dataset.y = asked.join(",");
      fail("");
    }
  } catch (error) {
    fail(error.message);
  } finally {
    working = false;
  }
}

function draw() { // histograms on the diagonal, points below it; the truth, where it is known, in red
  const canvas = at("corner"), context = canvas.getContext("2d"), style = getComputedStyle(document.body);
  const colour = name => style.getPropertyValue(name), k = info.names.length;
  const side = (canvas.width - LEFT) / k - GAP, tall = (canvas.height - BELOW) / k - GAP;
  context.clearRect(0, 0, canvas.width, canvas.height);
  context.font = "15px system-ui, sans-serif";
  context.lineWidth = 1.5;
  for (let row = 0; row < k; row++) for (let column = 0; column <= row; column++) {
    const x0 = LEFT + column * (side + GAP), y0 = row * (tall + GAP) + GAP / 2;
    const [low, high] = info.x[column], [bottom, top] = info.x[row];
    const across = v => x0 + (v - low) / (high - low) * side;
    context.save();
    context.beginPath();
    context.rect(x0, y0, side, tall);
    context.clip();
    context.fillStyle = colour("--accent");
    const up = v => y0 + tall - (v - bottom) / (top - bottom) * tall;
    if (row === column) {
      const counts = new Array(BINS).fill(0);
      for (const one of shown) counts[Math.min(BINS - 1, Math.max(0, Math.floor((one[row] - low) / (high - low) * BINS)))]++;
      const most = Math.max(...counts);
      counts.forEach((n, i) => context.fillRect(x0 + i * side / BINS, y0 + tall * (1 - .95 * n / most), side / BINS + .5, tall));
    } else {
      context.globalAlpha = .45;
      for (const one of shown) context.fillRect(across(one[column]) - 1.5, up(one[row]) - 1.5, 3, 3);
      context.globalAlpha = 1;
    }
    context.strokeStyle = colour("--wrong");
    if (truth) {
      context.beginPath();
      context.moveTo(across(truth[column]), y0);
      context.lineTo(across(truth[column]), y0 + tall);
      if (row !== column) { context.moveTo(x0, up(truth[row])); context.lineTo(x0 + side, up(truth[row])); }
      context.stroke();
    }
    context.restore();
    context.strokeStyle = colour("--line");
    context.strokeRect(x0, y0, side, tall);
    context.fillStyle = colour("--ink");
    if (row === k - 1) labels(context, x0, y0 + tall + 16, side, low, high, info.names[column], false);
    if (column === 0 && row > 0) labels(context, LEFT - 8, y0 + tall, tall, bottom, top, info.names[row], true);
  }
}

function labels(context, x, y, length, low, high, name, upright) { // the ends of an axis, and its name in the middle
  const text = v => Number(v.toPrecision(2)).toString();
  context.save();
  context.translate(x, y);
  if (upright) context.rotate(-Math.PI / 2);
  const down = upright ? -6 : 0;
  context.textAlign = "left";
  context.fillText(text(low), 0, down);
  context.textAlign = "right";
  context.fillText(text(high), length, down);
  context.textAlign = "center";
  context.fillText(name, length / 2, upright ? down - 20 : 18, length);
  context.restore();
}

function set(i, value) {
  y[i] = value;
  const slider = at(`y${i}`);
  slider.value = value;
  slider.nextElementSibling.textContent = value.toPrecision(3);
}

function slider(range, i) {
  const label = document.createElement("label"), name = document.createElement("span");
  const input = document.createElement("input"), output = document.createElement("output");
  label.className = "row slider";
  name.textContent = `y${i}`;
  Object.assign(input, {id: `y${i}`, type: "range", min: range[0], max: range[1], step: (range[1] - range[0]) / 200});
  input.addEventListener("input", () => {
    truth = null;
    at("note").textContent = "";
    set(i, Number(input.value));
    update();
  });
  label.append(name, input, output);
  at("sliders").append(label);
}

async function pick() {
  try {
    const found = await ask(`api/pick?index=${Math.floor(Math.random() * info.count)}`);
    truth = found.truth;
    found.y.forEach((value, i) => set(i, value));
    at("note").textContent = `Test observation ${found.index}; red: the x that it came from.`;
    await update();
  } catch (error) {
    fail(error.message);
  }
}

async function start() {
  try {
    info = await ask("api/info");
  } catch (error) {
    at("status").textContent = "";
    return fail(error.message);
  }
  at("bridge").textContent = `(${info.title}${info.shown < info.of ? `; the first ${info.shown} of ${info.of} coordinates` : ""})`;
  at("count").max = info.most;
  info.y.forEach(slider);
  at("pick").addEventListener("click", pick);
  at("again").addEventListener("click", () => { seed = Math.floor(Math.random() * 2 ** 31); update(); });
  at("count").addEventListener("input", () => { at("number").textContent = at("count").value; update(); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => shown && draw());
  await pick();
}

start();
