// The list of slides. The one that is looked at stands in the address, after the #.
"use strict";

import { mm2 } from "./format.js";
import { ask, element, the } from "./page.js";

const MANY = 12; // from so many slides on there is a field to search them
let slides = []; // those that have a result, in the order of the list

/** Fill the list from the server. */
export async function list() {
  const { title, slides: all } = await ask("/slides");
  const groups = [["done", "Finished"], ["failed", "Failed"], ["unfinished", "Not finished"]]
    .map(([status, word]) => [word, all.filter((slide) => slide.status === status)])
    .filter(([, members]) => members.length);
  slides = all.filter((slide) => slide.status === "done");
  the("folder").textContent = title;
  the("counts").textContent = groups.map(([word, members]) => `${members.length} ${word.toLowerCase()}`).join(", ");
  the("find").hidden = all.length < MANY;
  the("slides").replaceChildren(...groups.flatMap(([word, members]) => {
    const ul = document.createElement("ul");
    ul.append(...members.map(entry));
    return [element("h3", "", `${word} (${members.length})`), ul];
  }));
}

/** The slide that the address names, else the first. */
export function wanted() {
  const name = decodeURIComponent(location.hash.slice(1));
  return slides.find((one) => one.name === name) ?? slides[0];
}

/** Go to a slide by its name. */
function go(name) {
  location.hash = encodeURIComponent(name);
}

/** Go `step` slides down the list from the one with this key. */
export function goOn(key, step) {
  const at = slides.findIndex((slide) => slide.key === key);
  const slide = slides[Math.max(0, Math.min(slides.length - 1, at + step))];
  if (slide) go(slide.name);
}

/** Mark a slide as the one looked at; it alone is a stop for the Tab key. */
export function mark(key) {
  for (const button of the("slides").querySelectorAll("button")) {
    const current = button.dataset.key === key;
    button.setAttribute("aria-current", current);
    button.tabIndex = current ? 0 : -1;
  }
}

function entry(slide) {
  const item = document.createElement("li");
  const done = slide.status === "done";
  const part = done ? document.createElement("button") : element("div", `other ${slide.status}`, "");
  const regions = slide.regions === 1 ? "1 region" : `${slide.regions} regions`;
  const found = slide.regions ? `${mm2(slide.tumor_mm2)}, ${regions}` : "no tumour outlined";
  const review = slide.review ? `, ${slide.review} to review` : "";
  part.append(element("span", "title", slide.name));
  part.append(element("span", "note", done ? found + review : slide.note));
  if (done) {
    part.type = "button";
    part.dataset.key = slide.key;
    part.tabIndex = -1;
    part.addEventListener("click", () => go(slide.name));
  }
  item.append(part);
  return item;
}

const buttons = () => [...the("slides").querySelectorAll("button")].filter((button) => !button.closest("li").hidden);

the("slides").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const all = buttons();
  all[Math.max(0, Math.min(all.length - 1, all.indexOf(document.activeElement) + step))]?.focus();
  event.preventDefault();
});
the("wanted").addEventListener("input", () => {
  const part = the("wanted").value.toLowerCase();
  for (const item of the("slides").querySelectorAll("li")) {
    item.hidden = !item.querySelector(".title").textContent.toLowerCase().includes(part);
  }
});
