// What of the map is shown: which channel, from which value on, how opaque.
"use strict";

import { CHANNELS, share, table } from "./format.js";
import { element, the } from "./page.js";
import { draw, map } from "./stage.js";

let facts = null; // of the slide on the stage
let levels = [0.5, 0.15]; // from which value on each channel is shown
let before = "0"; // the channel that toggling brings back

const channel = () => document.querySelector("input[name=channel]:checked").value;

/** Begin with what the slide's outlines were made with. */
export function begin(slideFacts) {
  facts = slideFacts;
  const second = document.querySelector("input[name=channel][value='1']");
  second.disabled = facts.networks === 1;
  second.parentElement.title = second.disabled ? "One network cannot disagree with itself" : "";
  if (second.disabled && second.checked) document.querySelector("input[name=channel]").checked = true;
  levels = [facts.threshold, facts.review_above];
  change();
}

/** Take the map away, or bring back the channel that was shown. */
export function toggle() {
  if (channel() !== "") before = channel();
  document.querySelector(`input[name=channel][value='${channel() === "" ? before : ""}']`).checked = true;
  change();
}

function change() {
  const chosen = channel();
  the("map-options").hidden = chosen === "";
  if (chosen === "") {
    map.choose(null, 0);
  } else {
    const { most, word, ticks } = CHANNELS[chosen];
    const least = levels[chosen];
    Object.assign(the("least"), { min: 0, max: most, step: 0.01, value: least });
    the("least-name").textContent = `Shown where the ${word} is at least`;
    the("least-said").textContent = share(least);
    the("ticks").replaceChildren(...ticks.map((tick) => element("span", "", tick)));
    ramp(Number(chosen), least);
    hint(chosen, least);
    map.choose(Number(chosen), least);
  }
  map.canvas.style.opacity = the("opacity").value / 100;
  the("opacity-said").textContent = `${the("opacity").value} %`;
  draw();
}

function ramp(chosen, least) {
  const colors = table(chosen, least);
  const pixels = new ImageData(256, 1);
  const rgba = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < 256; i++) rgba[i] = colors[Math.round(i * CHANNELS[chosen].most)];
  the("ramp").firstElementChild.getContext("2d").putImageData(pixels, 0, 0);
}

function hint(chosen, least) {
  if (!facts) return;
  const { threshold, review_above: limit, name } = facts;
  const own = Math.abs(least - threshold) < 0.005;
  if (chosen === "1") {
    the("hint").textContent = `Standard deviation of the networks’ probabilities. A region whose mean is above ${share(limit)} counts as to review.`;
  } else if (own) {
    the("hint").textContent = "The outlines were drawn at this probability.";
  } else {
    const command = `wsiseg polygons ${the("folder").textContent}/${name} --threshold ${share(least)}`;
    the("hint").replaceChildren(`The outlines stay at ${share(threshold)}. To outline anew: `, element("code", "", command));
  }
}

for (const radio of document.querySelectorAll("input[name=channel]")) radio.addEventListener("change", change);
the("least").addEventListener("input", () => { levels[channel()] = Number(the("least").value); change(); });
the("opacity").addEventListener("input", change);
