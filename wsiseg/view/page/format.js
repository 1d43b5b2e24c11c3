// Numbers as they are read aloud, and the colours of the map.
"use strict";

export const mm2 = (value) => `${value.toFixed(value < 0.01 && value > 0 ? 4 : 3)} mm²`;
export const share = (value) => value.toFixed(2);

/** The largest 1, 2 or 5 times a power of ten that is not more. */
export function roundLength(most) {
  const power = 10 ** Math.floor(Math.log10(most));
  return Math.max(...[1, 2, 5].map((step) => step * power).filter((length) => length <= most));
}

export const length = (um) => (um >= 1000 ? `${um / 1000} mm` : `${Number(um.toPrecision(1))} µm`);

// From bottom to top; none of them a colour of haematoxylin or eosin.
const PROBABILITY = [[0, 38, 90, 160], [0.5, 0, 150, 140], [0.75, 90, 205, 90], [1, 255, 235, 40]];
const DISAGREEMENT = [[0, 205, 240, 255], [0.15, 70, 190, 255], [0.3, 20, 90, 230], [0.5, 10, 10, 90]];

/** What each channel of the map is called and how far it reaches. */
export const CHANNELS = [
  { ramp: PROBABILITY, most: 1, word: "probability", ticks: ["0", "0.25", "0.5", "0.75", "1"] },
  { ramp: DISAGREEMENT, most: 0.5, word: "disagreement", ticks: ["0", "0.1", "0.2", "0.3", "0.4", "0.5"] },
];

function color(ramp, value) {
  const at = ramp.findIndex(([stop]) => stop >= value);
  if (at <= 0) return at === 0 ? ramp[0].slice(1) : ramp.at(-1).slice(1);
  const [low, ...from] = ramp[at - 1];
  const [high, ...to] = ramp[at];
  return from.map((part, i) => Math.round(part + ((to[i] - part) * (value - low)) / (high - low)));
}

/** RGBA as a 32-bit number for each stored value 0 to 255; nothing is shown below `least` (0 to 1). */
export function table(channel, least) {
  const { ramp, most } = CHANNELS[channel];
  const rgba = new Uint8ClampedArray(4 * 256);
  for (let stored = 0; stored < 256; stored++) {
    const value = stored / 255;
    if (stored > 0 && value >= least) rgba.set([...color(ramp, Math.min(value, most)), 255], 4 * stored);
  }
  return new Uint32Array(rgba.buffer);
}
