"use strict";
const SIDE = 28, CELL = 12, SHOWN = 16, BRUSH = 1.15, STD_TOP = 0.5;
const image = new Uint8ClampedArray(SIDE * SIDE);
const small = document.createElement("canvas");
small.width = small.height = SIDE;
let info = null, hole = {top: 0, left: 0}, mode = "move", seed = 0;
let held = null, last = null; // the pointer's hold on the hole, and the last point of a stroke

const grey = v => [v, v, v];
const HEAT = [[0, 0, 4], [80, 18, 123], [182, 54, 121], [251, 136, 97], [252, 253, 191]];
function heat(v) {
  const where = Math.min(1, v / 255 / STD_TOP) * (HEAT.length - 1), i = Math.min(HEAT.length - 2, Math.floor(where));
  return HEAT[i].map((low, c) => low + (where - i) * (HEAT[i + 1][c] - low));
}

function paint(canvas, pixels, colour) {
  const context = canvas.getContext("2d"), data = context.createImageData(canvas.width, canvas.height);
  for (let i = 0; i < canvas.width * canvas.height; i++) {
    data.data.set(colour(pixels[i], i), 4 * i);
    data.data[4 * i + 3] = 255;
  }
  context.putImageData(data, 0, 0);
}

function inside(i) {
  const row = Math.floor(i / SIDE) - hole.top, column = i % SIDE - hole.left;
  return row >= 0 && row < info.hole && column >= 0 && column < info.hole;
}

function show() { // what is hidden from the bridge is tinted
  paint(small, image, (v, i) => inside(i) ? [30 + .35 * v, 62 + .45 * v, 98 + .55 * v] : grey(v));
  const context = at("digit").getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, SIDE * CELL, SIDE * CELL);
  context.lineWidth = 2;
  if (mode === "draw") { // digits of MNIST fill the middle 20×20 pixels
    context.strokeStyle = "rgba(255,255,255,.35)";
    context.setLineDash([4, 6]);
    context.strokeRect(4 * CELL, 4 * CELL, 20 * CELL, 20 * CELL);
    context.setLineDash([]);
  }
  context.strokeStyle = info.movable ? "#79b8f0" : "#9aa3ad";
  const side = info.hole * CELL;
  context.strokeRect(hole.left * CELL + 1, hole.top * CELL + 1, side - 2, side - 2);
}

let working = false, wanted = false;
async function update() { // one request at a time; of those asked for meanwhile, the last
  wanted = true;
  if (working) return;
  working = true;
  try {
    while (wanted) {
      wanted = false;
      const start = performance.now();
      const found = await ask("api/sample", {image: [...image], ...hole, n: Number(at("count").value), seed});
      fill(found, performance.now() - start);
      fail("");
    }
  } catch (error) {
    fail(error.message);
  } finally {
    working = false;
  }
}

function fill(found, all) {
  const shown = found.samples.slice(0, SHOWN), box = at("samples");
  while (box.children.length > shown.length) box.lastChild.remove();
  while (box.children.length < shown.length) {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = SIDE;
    box.append(canvas);
  }
  shown.forEach((pixels, i) => paint(box.children[i], pixels, grey));
  paint(at("mean"), found.mean, grey);
  paint(at("std"), found.std, heat);
  const n = found.samples.length, first = n > SHOWN ? `, the first ${SHOWN} shown` : "";
  at("status").textContent = `${n} samples${first}: ${found.milliseconds.toFixed(0)} ms ` +
    `(${all.toFixed(0)} ms with the way here), ${found.calls} network calls each`;
  at("samples").dataset.hole = `${found.top},${found.left}`;
  at("samples").dataset.seconds = all / 1000;
}

function place(top, left) {
  if (!info.movable) return;
  const limit = v => Math.max(0, Math.min(SIDE - info.hole, Math.round(v)));
  const next = {top: limit(top), left: limit(left)};
  if (next.top === hole.top && next.left === hole.left) return;
  hole = next;
  show();
  update();
}

function dab(x, y) { // a soft round brush
  for (let row = Math.max(0, Math.floor(y - 3)); row < Math.min(SIDE, y + 3); row++) {
    for (let column = Math.max(0, Math.floor(x - 3)); column < Math.min(SIDE, x + 3); column++) {
      const ink = 255 * Math.max(0, Math.min(1, BRUSH + .5 - Math.hypot(column + .5 - x, row + .5 - y)));
      image[row * SIDE + column] = Math.max(image[row * SIDE + column], ink);
    }
  }
}

function stroke(to) {
  const from = last || to, steps = Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / .4) || 1;
  for (let i = 1; i <= steps; i++) dab(from.x + (to.x - from.x) * i / steps, from.y + (to.y - from.y) * i / steps);
  last = to;
  note("");
  show();
  update();
}

function point(event) {
  const box = at("digit").getBoundingClientRect();
  return {x: (event.clientX - box.left) / box.width * SIDE, y: (event.clientY - box.top) / box.height * SIDE};
}

function press(event) {
  if (event.button !== 0) return;
  at("digit").setPointerCapture(event.pointerId);
  const p = point(event);
  if (mode === "draw") return stroke(p);
  if (!info.movable) return;
  const grasped = inside(Math.floor(p.y) * SIDE + Math.floor(p.x));
  held = grasped ? {x: p.x - hole.left, y: p.y - hole.top} : {x: info.hole / 2, y: info.hole / 2};
  at("digit").classList.add("held");
  place(p.y - held.y, p.x - held.x);
}

function drag(event) {
  const p = point(event);
  if (held) place(p.y - held.y, p.x - held.x);
  else if (last) stroke(p);
}

function release() {
  held = last = null;
  at("digit").classList.remove("held");
}

function key(event) {
  const step = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
  if (!step) return;
  event.preventDefault();
  place(hole.top + step[0], hole.left + step[1]);
}

function choose(next) {
  mode = next;
  for (const name of ["move", "draw"]) at(name).setAttribute("aria-pressed", String(name === mode && !at(name).disabled));
  at("digit").className = mode === "draw" ? "drawing" : info.movable ? "" : "fixed";
  show();
}

function note(text) {
  at("note").textContent = [text, info.why, info.without_digits].filter(Boolean).join(" ");
}

async function pick() {
  try {
    const found = await ask(`api/pick?index=${Math.floor(Math.random() * info.digits)}`);
    image.set(found.image);
    note(`Test digit ${found.index}, a ${found.label}: the bridge was not trained on it.`);
    fail("");
    choose("move");
    await update();
  } catch (error) {
    fail(error.message);
  }
}

function clear() {
  image.fill(0);
  note("Draw a digit into the dashed square, then move the hole.");
  choose("draw");
  update();
}

async function start() {
  try {
    info = await ask("api/info");
  } catch (error) {
    at("status").textContent = "";
    return fail(error.message);
  }
  hole = {top: info.top, left: info.left};
  at("bridge").textContent = `(${info.title})`;
  at("count").max = info.most;
  at("pick").disabled = info.digits === 0;
  at("move").disabled = !info.movable;
  paint(at("colours"), [...Array(64).keys()].map(i => i / 63 * 255 * STD_TOP), heat);
  const canvas = at("digit");
  canvas.addEventListener("pointerdown", press);
  canvas.addEventListener("pointermove", drag);
  for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, release);
  canvas.addEventListener("keydown", key);
  at("move").addEventListener("click", () => choose("move"));
  at("draw").addEventListener("click", () => choose("draw"));
  at("pick").addEventListener("click", pick);
  at("clear").addEventListener("click", clear);
  at("again").addEventListener("click", () => { seed = Math.floor(Math.random() * 2 ** 31); update(); });
  at("count").addEventListener("input", () => { at("number").textContent = at("count").value; update(); });
  if (info.digits) await pick();
  else clear();
}

start();
