"""The script of the live page: it draws what the stream of points brings. Names of runs only ever become text."""

SCRIPT = """
"use strict";
const SVG = "http://www.w3.org/2000/svg", W = 720, H = 360, L = 56, R = 16, T = 14, B = 40;
const runs = new Map();
const charts = [...document.querySelectorAll("[data-chart]")];
let due = false;

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function ticks(low, high) {
  const rough = (high - low) / 5, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map(f => f * power).find(s => s >= rough * (1 - 1e-9));
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9 * step; k++) found.push(k * step);
  return found;
}

function range(values) {
  const low = Math.min(...values), high = Math.max(...values), margin = 0.05 * (high - low) || 0.5;
  return [low - margin, high + margin];
}

function draw(figure) {
  const key = figure.dataset.chart, svg = figure.querySelector("svg");
  const lines = [...runs].map(([name, points], place) =>
    [name, points.filter(p => key in p).map(p => [p.epoch, p[key]]), place % 7]).filter(line => line[1].length);
  svg.replaceChildren();
  if (!lines.length) return;
  const [x0, x1] = range(lines.flatMap(line => line[1].map(p => p[0])));
  const [y0, y1] = range(lines.flatMap(line => line[1].map(p => p[1])));
  const x = v => L + (v - x0) / (x1 - x0) * (W - L - R), y = v => H - B - (v - y0) / (y1 - y0) * (H - B - T);
  for (const v of ticks(y0, y1)) {
    svg.append(element("path", {d: `M${L} ${y(v)}H${W - R}`, class: "stroke-grid", fill: "none"}));
    svg.append(element("text", {x: L - 8, y: y(v) + 4, "text-anchor": "end", class: "fill-ink"}, +v.toPrecision(6)));
  }
  for (const v of ticks(x0, x1))
    svg.append(element("text", {x: x(v), y: H - B + 20, "text-anchor": "middle", class: "fill-ink"},
      +v.toPrecision(6)));
  svg.append(element("text", {x: (L + W - R) / 2, y: H - 4, "text-anchor": "middle", class: "fill-mute"}, "epoch"));
  for (const [name, points, role] of lines) {
    const path = element("polyline", {points: points.map(p => `${x(p[0])},${y(p[1])}`).join(" "),
      class: `stroke-${role}`, fill: "none", "stroke-width": 2});
    path.append(element("title", {}, name));
    svg.append(path);
    const [a, b] = points[points.length - 1];
    svg.append(element("circle", {cx: x(a), cy: y(b), r: 3, class: `fill-${role}`}));
  }
  svg.dataset.points = lines.reduce((sum, line) => sum + line[1].length, 0);
}

function legend() {
  const list = document.querySelector("[data-legend]");
  if (!list) return;
  list.replaceChildren(...[...runs].map(([name, points], place) => {
    const item = document.createElement("li"), mark = element("svg", {viewBox: "0 0 10 10"});
    const link = document.createElement("a"), last = points[points.length - 1];
    mark.append(element("circle", {cx: 5, cy: 5, r: 4, class: `fill-${place % 7}`}));
    link.href = "/run?name=" + encodeURIComponent(name);
    link.textContent = last.label;
    const told = "tested" in last ? `${last.tested.toFixed(2)} % tested` : `loss ${(last.loss ?? 0).toFixed(4)}`;
    item.append(mark, link, ` epoch ${last.epoch}, ${told}`);
    return item;
  }));
}

function take(point) {
  if (!("epoch" in point)) return;
  if (point.anew || !runs.has(point.run)) runs.set(point.run, []);
  runs.get(point.run).push(point);
  if (due) return;
  due = true;
  requestAnimationFrame(() => { due = false; charts.forEach(draw); legend(); });
}

const source = new EventSource("/events" + location.search);
source.onopen = () => { runs.clear(); document.body.dataset.live = "yes"; };
source.onmessage = event => take(JSON.parse(event.data));
"""

STYLE = """
ul[data-legend]{list-style:none;margin:1rem 0;padding:0;font-size:.9rem}
ul[data-legend] svg{display:inline-block;width:.7rem;height:.7rem;margin-right:.5rem}
ul[data-legend] li{margin:.2rem 0;overflow-wrap:anywhere}
[data-chart] svg{min-height:8rem}
th[scope=row]{overflow-wrap:anywhere;min-width:12rem}
"""
