// The page: one slide of the list on the stage, a walk from region to region, pointer and keys.
"use strict";

import { mm2, share } from "./format.js";
import * as controls from "./map_controls.js";
import { ask, element, tell, the } from "./page.js";
import { goOn, list, mark, wanted } from "./slide_list.js";
import { draw, enter, level0, map, outlines, sharpen, showWhole, viewer, zoomBy, zoomTo } from "./stage.js";

let now = null; // the slide on the stage: {key, facts, rows, at}; facts is null until the server has told them

// ---- one slide

async function open() {
  const slide = wanted();
  if (!slide || slide.key === now?.key) return;
  const mine = (now = { key: slide.key, facts: null, rows: [], at: null });
  const address = `/slides/${slide.key}`;
  mark(slide.key);
  delete the("slide").dataset.source; // that of the slide before says nothing of this one
  try {
    const facts = await ask(address);
    if (now !== mine) return;
    now.facts = facts;
    describe(facts);
    enter(facts, address);
    controls.begin(facts);
    the("slide").dataset.slide = slide.name;
    const [rows, collection] = await Promise.all([ask(`${address}/review`), ask(`${address}/outlines`)]);
    if (now !== mine) return;
    now.rows = rows;
    outlines.show(collection, facts.corner, new Set(rows.filter((row) => row.review).map((row) => row.id)));
    walkable();
    await find(address, mine);
  } catch (error) {
    if (now === mine) tell(error.message);
  }
}

/** Wait until the slide itself is found, then lay its tiles over the overview. */
async function find(address, mine) {
  for (let wait = 100; ; wait = Math.min(2 * wait, 2000)) {
    const { state, reason } = await ask(`${address}/source`);
    if (now !== mine) return;
    the("slide").dataset.source = state;
    if (state === "ready") {
      tell("");
      sharpen(address);
      return;
    }
    tell(state === "looking" ? `Making sure that ${mine.facts.file} is the slide that was segmented …`
      : `${reason}. Until then the map is shown on the overview only.`);
    if (state === "absent") return;
    await new Promise((done) => { setTimeout(done, wait); });
  }
}

function describe(facts) {
  document.title = `${facts.name}, wsiseg view`;
  the("name").textContent = facts.name;
  const part = facts.tissue_fraction === null ? "" : ` (${(100 * facts.tissue_fraction).toFixed(1)} % of the tissue)`;
  const found = facts.regions ? `Tumour ${mm2(facts.tumor_mm2)}${part}` : "No tumour outlined";
  the("found").textContent = facts.note ? `${found}: ${facts.note}.` : `${found}.`;
  the("to-review").hidden = facts.networks === 1;
  the("review-limit").textContent = share(facts.review_above);
  the("flags").replaceChildren(...facts.flags.map((flag) => element("li", "", flag)));
  tell("");
  const lines = [
    ["Slide", facts.file], ["Size", `${facts.width} × ${facts.height} px`],
    ["Resolution", `${Number(facts.mpp.toPrecision(4))} µm per pixel (${facts.mpp_source})`],
    ["Tissue", facts.tissue_mm2 === null ? "not looked for" : mm2(facts.tissue_mm2)],
    ["Model", `${facts.model}, ${facts.networks} ${facts.networks === 1 ? "network" : "networks"}`],
    ["Threshold", share(facts.threshold) + (facts.sure ? `, sure ${share(facts.sure)}` : "")],
    ["Finished", facts.finished.slice(0, 16).replace("T", " ")],
  ];
  the("facts").replaceChildren(...lines.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]));
}

// ---- from region to region

const walk = () => now.rows.filter((row) => row.review || !the("only").checked);

function walkable() {
  const { rows, facts } = now;
  const review = rows.filter((row) => row.review).length;
  the("steps").textContent = facts.networks === 1 ? "Regions, largest first" : "Regions, most uncertain first";
  the("only-row").hidden = !review || review === rows.length;
  the("only").checked &&= !the("only-row").hidden;
  the("walk").hidden = !rows.length;
  the("none").hidden = rows.length > 0;
  choose(null);
}

function words(row) {
  const said = [["Area", mm2(row.area_mm2)], ["Mean probability", share(row.mean_probability)]];
  if (now.facts.networks > 1) said.push(["Disagreement", share(row.disagreement) + (row.review ? ", to review" : "")]);
  return said;
}

function choose(row) {
  now.at = row;
  outlines.chosen = row ? outlines.byId.get(row.id) ?? null : null;
  const rows = walk();
  const count = rows.length === 1 ? "1 region" : `${rows.length} regions`;
  the("which").textContent = row ? `Region ${row.rank} of ${now.rows.length}` : count;
  the("measures").hidden = !row;
  the("measures").tBodies[0].replaceChildren(...(row ? words(row) : []).map(([name, value]) => {
    const line = document.createElement("tr");
    line.append(Object.assign(element("th", "", name), { scope: "row" }), element("td", "", value));
    return line;
  }));
  the("before").disabled = !rows.some((one) => one.rank < (row?.rank ?? 0));
  the("next").disabled = !rows.some((one) => one.rank > (row?.rank ?? 0));
  draw();
}

function step(forward) {
  const at = now?.at?.rank ?? 0;
  const rows = now?.facts ? walk() : [];
  const row = forward ? rows.find((one) => one.rank > at) : rows.findLast((one) => one.rank < at);
  if (!row) return;
  const { mpp, corner } = now.facts;
  const centre = [row.x_px - corner[0], row.y_px - corner[1]];
  zoomTo(outlines.byId.get(row.id)?.box ?? [...centre, ...centre], 200 / mpp);
  choose(row);
}

the("next").addEventListener("click", () => step(true));
the("before").addEventListener("click", () => step(false));
the("only").addEventListener("change", () => choose(now.at));

// ---- pointer and keys

function hover(position) {
  if (!now?.facts) return;
  const point = level0(position);
  const values = map.at(...point);
  the("here").hidden = !values;
  if (values) {
    const apart = now.facts.networks > 1 ? `, disagreement ${share(values[1])}` : "";
    the("here").textContent = `Here: probability ${share(values[0])}${apart}`;
  }
  const found = outlines.shown ? outlines.at(...point) : null;
  const row = found && now.rows.find((one) => one.id === found.id);
  const label = the("label");
  label.hidden = !row;
  if (!row) return;
  label.textContent = [`${found.name}, region ${row.rank}`, ...words(row).map((pair) => pair.join(" "))].join("\n");
  const room = the("stage").getBoundingClientRect();
  label.style.left = `${Math.max(0, Math.min(position.x + 16, room.width - label.offsetWidth - 8))}px`;
  label.style.top = `${Math.max(0, Math.min(position.y + 16, room.height - label.offsetHeight - 8))}px`;
}

the("stage").addEventListener("pointermove", (event) => {
  const { left, top } = the("slide").getBoundingClientRect();
  hover(new OpenSeadragon.Point(event.clientX - left, event.clientY - top));
});
the("stage").addEventListener("pointerleave", () => { the("label").hidden = the("here").hidden = true; });
viewer.addHandler("canvas-click", (event) => {
  if (!event.quick || !now?.facts || !outlines.shown) return;
  const found = outlines.at(...level0(event.position));
  choose(now.rows.find((row) => row.id === found?.id) ?? null);
});
the("outlined").addEventListener("change", () => { outlines.shown = the("outlined").checked; draw(); });

const KEYS = {
  n: () => step(true), p: () => step(false), m: controls.toggle, o: () => the("outlined").click(),
  "]": () => goOn(now?.key, 1), "[": () => goOn(now?.key, -1), Escape: () => now?.facts && choose(null),
  "+": () => zoomBy(1.5), "=": () => zoomBy(1.5), "-": () => zoomBy(1 / 1.5), 0: () => showWhole(),
};
document.addEventListener("keydown", (event) => {
  const combined = (event.ctrlKey || event.metaKey || event.altKey) && !event.getModifierState("AltGraph");
  if (combined || event.target.matches("input[type=search]")) return;
  const onSlide = the("slide").contains(event.target);
  if (onSlide && ["+", "=", "-"].includes(event.key)) return; // OpenSeadragon's own
  KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key]?.();
});

addEventListener("hashchange", open);
list().then(open, (error) => tell(error.message));
