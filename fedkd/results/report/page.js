"use strict";
// The page is whole without this: it adds values under the pointer, lines that can be switched off, and, where it is served, news.
const tip = document.getElementById("tip");

function show(text, x, y) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  tip.style.left = `${Math.max(4, Math.min(x + 14, innerWidth - box.width - 8))}px`;
  tip.style.top = `${y + box.height + 24 > innerHeight ? Math.max(4, y - box.height - 10) : y + 14}px`;
}

function hide() {
  tip.hidden = true;
  for (const cursor of document.querySelectorAll(".cursor")) cursor.style.visibility = "hidden";
}

// Where the measured points of a line lie, in the drawing's units.
function spots(line) {
  if (!line.spots) {
    const text = line.dataset.spots || line.querySelector(".stroke")?.getAttribute("d").slice(1) || "";
    line.spots = text.split(" ").filter(Boolean).map((pair) => pair.split(",").map(Number));
  }
  return line.spots;
}

function shown(svg) {
  return [...svg.querySelectorAll(".line:not(.off)")].filter((line) => line.dataset.said !== undefined && spots(line).length);
}

// Every shown line's value at its point nearest to a place across.
function read(svg, place, x, y) {
  const lines = shown(svg);
  if (!lines.length) return hide();
  const near = (line) => spots(line).reduce((best, spot, i, all) => (Math.abs(spot[0] - place) < Math.abs(all[best][0] - place) ? i : best), 0);
  const found = lines.map((line) => ({ line, index: near(line) }));
  const nearest = found.reduce((a, b) => (Math.abs(spots(b.line)[b.index][0] - place) < Math.abs(spots(a.line)[a.index][0] - place) ? b : a));
  const at = spots(nearest.line)[nearest.index][0];
  const same = found.filter(({ line, index }) => Math.abs(spots(line)[index][0] - at) < 0.6);
  const head = nearest.line.dataset.at.split("|")[nearest.index];
  show([head, ...same.map(({ line, index }) => `${line.dataset.name}: ${line.dataset.said.split("|")[index]}`)].join("\n"), x, y);
  const cursor = svg.querySelector(".cursor");
  cursor.setAttribute("x1", at);
  cursor.setAttribute("x2", at);
  cursor.style.visibility = "visible";
  svg.place = at;
}

// The cell of a heat map under a place, from the table behind the figure.
function cell(svg, left, top, x, y) {
  const [x0, y0, x1, y1] = svg.dataset.box.split(" ").map(Number);
  const table = svg.closest("figure").querySelector("table");
  const rows = table.tBodies[0].rows, heads = table.tHead.rows[0].cells;
  const size = svg.dataset.size.split(" ").map(Number);
  const row = Math.floor(((top - y0) / (y1 - y0)) * size[0]), column = Math.floor(((left - x0) / (x1 - x0)) * size[1]);
  const value = rows[row]?.cells[column + 1];
  if (row < 0 || column < 0 || row >= size[0] || column >= size[1] || !value || rows.length < size[0]) return hide();
  const words = svg.dataset.names.split("|");
  show(`${words[0]} ${rows[row].cells[0].textContent.trim()}, ${words[1]} ${heads[column + 1].textContent.trim()}: ${value.textContent.trim() || "none"}`, x, y);
}

function place(svg, event) {
  return new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
}

function prepare(root) {
  for (const svg of root.querySelectorAll("svg.chart")) {
    svg.addEventListener("pointermove", (event) => read(svg, place(svg, event).x, event.clientX, event.clientY));
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("blur", hide);
    svg.addEventListener("focus", () => (svg.place = undefined));
    svg.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") hide();
      if (!step || !shown(svg).length) return;
      event.preventDefault();
      const all = [...new Set(shown(svg).flatMap((line) => spots(line).map((spot) => spot[0])))].sort((a, b) => a - b);
      const now = all.indexOf(svg.place);
      const next = all[now < 0 ? (step > 0 ? 0 : all.length - 1) : Math.max(0, Math.min(all.length - 1, now + step))];
      const box = svg.getBoundingClientRect();
      read(svg, next, box.left + (next / svg.viewBox.baseVal.width) * box.width, box.top + box.height / 3);
    });
  }
  for (const svg of root.querySelectorAll("svg.heat")) {
    svg.addEventListener("pointermove", (event) => {
      const at = place(svg, event);
      cell(svg, at.x, at.y, event.clientX, event.clientY);
    });
    svg.addEventListener("pointerleave", hide);
  }
  for (const item of root.querySelectorAll(".legend li")) {
    const button = document.createElement("button");
    const name = item.querySelector("span").textContent;
    button.type = "button";
    button.append(...item.childNodes);
    item.append(button);
    const turn = (on) => {
      button.setAttribute("aria-pressed", on);
      for (const line of item.closest("figure").querySelectorAll(".line")) {
        if (line.dataset.name === name) line.classList.toggle("off", !on);
      }
    };
    button.addEventListener("click", () => turn(button.getAttribute("aria-pressed") !== "true"));
    turn(true);
  }
}

// A newer page from the same address takes this one's place; what was opened or switched off stays so.
async function renew(seconds, tag) {
  let newer = tag, again = seconds;
  try {
    const answer = await fetch(location.href, { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
    if (answer.status === 200) {
      newer = answer.headers.get("ETag");
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      again = Number(page.documentElement.dataset.refresh || 0);
      if (tag) replace(page);
    }
  } catch {
    again = 4 * seconds; // it was stopped, or cannot be reached for now
  }
  if (again) setTimeout(renew, 1000 * again, seconds, newer);
}

function replace(page) {
  const key = (element) => (element.closest("figure")?.dataset.id || element.closest("section")?.id) + element.textContent.trim();
  const open = new Set([...document.querySelectorAll("details[open] > summary")].map(key));
  const off = new Set([...document.querySelectorAll('.legend button[aria-pressed="false"]')].map(key));
  for (const name of ["main", "header", "nav"]) document.querySelector(name).replaceWith(page.querySelector(name));
  document.title = page.title;
  hide();
  prepare(document.querySelector("main"));
  for (const summary of document.querySelectorAll("details > summary")) if (open.has(key(summary))) summary.parentElement.open = true;
  for (const button of document.querySelectorAll(".legend button")) if (off.has(key(button))) button.click();
}

prepare(document);
const refresh = Number(document.documentElement.dataset.refresh || 0);
if (refresh) renew(refresh, "");
