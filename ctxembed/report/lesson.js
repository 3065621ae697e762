// Shows the recorded matrices of the sentence, layer, head and step that are chosen. It computes nothing.
const PAGE_COLUMNS = 12;
const byId = (id) => document.getElementById(id);
const state = { sentence: 0, layer: 0, head: 0, asks: 0, step: 0, from: {} };
const unpacked = new Map();

// A matrix {shape, data} as numbers: data are little-endian float32 in base64.
function numbers(matrix) {
  if (!unpacked.has(matrix)) {
    const view = new DataView(Uint8Array.from(atob(matrix.data), (c) => c.charCodeAt(0)).buffer);
    unpacked.set(matrix, Array.from({ length: view.byteLength / 4 }, (_, n) => view.getFloat32(4 * n, true)));
  }
  return unpacked.get(matrix);
}

// The rows of a matrix by name: of the chosen layer or else of the sentence, of the chosen head if it has heads.
function rowsOf(name) {
  const sentence = DATA.sentences[state.sentence];
  const matrix = sentence.layers[state.layer][name] ?? sentence[name];
  const [height, width] = matrix.shape.slice(-2);
  const start = matrix.shape.length === 3 ? state.head * height * width : 0;
  const values = numbers(matrix);
  const rows = Array.from({ length: height }, (_, r) => values.slice(start + r * width, start + (r + 1) * width));
  return { rows, perHead: matrix.shape.length === 3, perLayer: name in sentence.layers[state.layer] };
}

function element(tag, text, attributes = {}) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function showMatrix(place) {
  const { name, label } = place.dataset;
  const { tokens, layers } = DATA.sentences[state.sentence];
  const { rows, perHead, perLayer } = rowsOf(name);
  const width = rows[0].length;
  const square = ["scores", "scaled", "weights"].includes(name);
  const from = square ? 0 : Math.min(state.from[name] ?? 0, width - 1);
  const to = square ? width : Math.min(width, from + PAGE_COLUMNS);
  const largest = rows.reduce((most, row) => row.reduce((found, value) => Math.max(found, Math.abs(value)), most), 0) || 1;
  const where = [perLayer ? layers[state.layer].label : "", perHead ? `head ${state.head + 1}` : ""].filter(Boolean);
  const part = to - from < width ? `, columns ${from + 1} to ${to}` : "";
  const size = `${rows.length} × ${width}${part}`;
  const table = element("table", null);
  table.append(element("caption", `${label}: ${[...where, size].join(", ")}`));
  const head = element("tr", null);
  head.append(element("td", ""));
  for (let c = from; c < to; c++) head.append(element("th", square ? tokens[c] : c + 1, { scope: "col" }));
  table.append(head);
  rows.forEach((row, r) => {
    const line = element("tr", null, r === state.asks ? { class: "chosen" } : {});
    line.append(element("th", tokens[r], { scope: "row" }));
    for (let c = from; c < to; c++) {
      const cell = element("td", row[c].toFixed(3), { "data-value": row[c], title: row[c] });
      const colour = row[c] < 0 ? "213, 94, 0" : "0, 114, 178";
      cell.style.background = `rgba(${colour}, ${((0.6 * Math.abs(row[c])) / largest).toFixed(3)})`;
      line.append(cell);
    }
    table.append(line);
  });
  place.replaceChildren(table);
  if (to - from < width) place.append(pager(place, name, from, width));
}

function pager(place, name, from, width) {
  const bar = element("p", null, { class: "pager" });
  for (const [text, target, far] of [["Earlier columns", from - PAGE_COLUMNS, from === 0], ["Later columns", from + PAGE_COLUMNS, from + PAGE_COLUMNS >= width]]) {
    const button = element("button", text, { type: "button", "aria-label": `${text} of ${place.dataset.label}` });
    button.disabled = far;
    button.addEventListener("click", () => {
      state.from[name] = target;
      showMatrix(place);
      const again = [...place.querySelectorAll("button")];
      (again.find((each) => each.textContent === text && !each.disabled) ?? again.find((each) => !each.disabled))?.focus();
    });
    bar.append(button);
  }
  return bar;
}

// Lines from each token that asks (left) to each it looks at (right), as strong as the weight.
function showPicture(place) {
  const { tokens, layers } = DATA.sentences[state.sentence];
  const { rows } = rowsOf("weights");
  const height = 22 * tokens.length + 12;
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const says = `Attention in ${layers[state.layer].label}, head ${state.head + 1}: lines from each token on the left to those it looks at, those of ${tokens[state.asks]} in orange.`;
  for (const [key, value] of [["viewBox", `0 0 420 ${height}`], ["width", 420], ["height", height], ["role", "img"], ["aria-label", says]]) svg.setAttribute(key, value);
  const add = (tag, attributes, text) => {
    const mark = document.createElementNS(space, tag);
    for (const [key, value] of Object.entries(attributes)) mark.setAttribute(key, value);
    if (text !== undefined) mark.textContent = text;
    svg.append(mark);
  };
  const y = (n) => 18 + 22 * n;
  rows.forEach((row, r) => row.forEach((weight, c) => {
    const chosen = r === state.asks;
    const opacity = (chosen ? 1 : 0.45) * weight;
    add("line", { x1: 130, y1: y(r) - 4, x2: 290, y2: y(c) - 4, stroke: chosen ? "#d55e00" : "#0072b2", "stroke-width": chosen ? 3 : 1.5, "stroke-opacity": opacity.toFixed(3) });
  }));
  tokens.forEach((token, n) => {
    add("text", { x: 122, y: y(n), "text-anchor": "end" }, token);
    add("text", { x: 298, y: y(n) }, token);
  });
  const figure = element("figure", null);
  figure.append(svg, element("figcaption", says));
  place.replaceChildren(figure);
}

function showStep() {
  for (const part of document.querySelectorAll("section.step")) {
    part.hidden = Number(part.dataset.step) !== state.step;
    if (part.hidden) continue;
    part.querySelectorAll(".matrix").forEach(showMatrix);
    part.querySelectorAll(".weights-picture").forEach(showPicture);
  }
  for (const button of document.querySelectorAll("#steps button")) {
    const current = Number(button.dataset.step) === state.step;
    current ? button.setAttribute("aria-current", "step") : button.removeAttribute("aria-current");
    if (current) byId("now").textContent = `Showing step ${button.textContent}`;
  }
}

function fill(id, names) {
  const select = byId(id);
  select.replaceChildren(...names.map((name, n) => element("option", name, { value: n })));
  state[id] = Math.min(state[id], names.length - 1);
  select.value = state[id];
  select.closest("label").hidden = names.length === 1;
}

function fillChoices() {
  const { tokens, layers } = DATA.sentences[state.sentence];
  fill("sentence", DATA.sentences.map((each) => each.text));
  fill("layer", layers.map((each) => each.label));
  fill("head", Array.from({ length: layers[state.layer].query.shape[0] }, (_, n) => `head ${n + 1}`));
  fill("asks", tokens);
}

for (const id of ["sentence", "layer", "head", "asks"]) {
  byId(id).addEventListener("change", (event) => {
    state[id] = Number(event.target.value);
    if (id === "sentence") state.asks = DATA.sentences[state.sentence].chosen;
    fillChoices();
    showStep();
  });
}
const steps = [...document.querySelectorAll("#steps button")];
steps.forEach((button, n) => {
  button.addEventListener("click", () => {
    state.step = n;
    showStep();
  });
  button.addEventListener("keydown", (event) => {
    const target = steps[n + (event.key === "ArrowRight" ? 1 : event.key === "ArrowLeft" ? -1 : 0)];
    if (!target || target === button) return;
    event.preventDefault();
    target.focus();
    target.click();
  });
});
state.asks = DATA.sentences[0].chosen;
fillChoices();
showStep();
