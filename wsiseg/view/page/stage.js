// The stage: a slide, its map and its outlines on top of each other, a scale bar, and what is in sight.
"use strict";

import { length, roundLength } from "./format.js";
import { MapLayer } from "./map_layer.js";
import { Outlines } from "./outlines.js";
import { tell, the } from "./page.js";

export const viewer = OpenSeadragon({
  element: the("slide"),
  drawer: "canvas",
  showNavigationControl: false,
  gestureSettingsMouse: { clickToZoom: false },
  animationTime: matchMedia("(prefers-reduced-motion: reduce)").matches ? 0 : 0.6,
  visibilityRatio: 0.4,
  minZoomImageRatio: 0.6,
  maxZoomPixelRatio: 4,
  timeout: 600000, // ms: a slide on a slow disk is slow, not broken
});
export const map = new MapLayer(viewer);
export const outlines = new Outlines();
let facts = null; // of the slide on the stage
let whole = null; // where the view was when all of the slide was shown last: {zoom, centre}
let moving = false; // a zoom or pan is under way
let fitting = false; // the stage has changed its size under a view of the whole slide

/** Put a slide on the stage: its frame and its overview, both as wide as its bounds. */
export function enter(slideFacts, address) {
  facts = slideFacts;
  viewer.world.removeAll();
  outlines.clear();
  map.show(facts, `${address}/map`);
  const { width, height, tile } = facts;
  const empty = { width, height, tileSize: tile, tileExists: () => false, getTileUrl: () => "" };
  viewer.addTiledImage({ tileSource: empty, width: 1, success: () => { showWhole(true); draw(); } });
  if (facts.thumbnail) {
    viewer.addTiledImage({ tileSource: { type: "image", url: `${address}/thumbnail.jpg` }, width: 1, index: 1 });
  }
}

/** Lay the slide's own tiles over its overview. */
export function sharpen(address) {
  const { width, height, tile } = facts;
  const most = Math.ceil(Math.log2(Math.max(width, height)));
  viewer.addTiledImage({
    tileSource: {
      width, height, tileSize: tile, minLevel: Math.min(most, Math.ceil(Math.log2(tile))),
      getTileUrl: (level, x, y) => `${address}/tiles/${most - level}/${x}_${y}.jpg`,
    },
    width: 1,
  });
}

/** Show a box of level-0 pixels, with some room around it, and no closer than `least` pixels. */
export function zoomTo([left, top, right, bottom], least) {
  const side = Math.max(1.5 * (right - left), 1.5 * (bottom - top), least);
  const [x, y] = [(left + right - side) / 2, (top + bottom - side) / 2];
  const { width } = facts;
  viewer.viewport.fitBounds(new OpenSeadragon.Rect(x / width, y / width, side / width, side / width));
}

export function zoomBy(factor) {
  viewer.viewport.zoomBy(factor);
  viewer.viewport.applyConstraints();
}

export function showWhole(immediately = false) {
  viewer.viewport.goHome(immediately);
  whole = { zoom: viewer.viewport.getZoom(), centre: viewer.viewport.getCenter() };
}

const isWhole = () => whole && viewer.viewport.getZoom() === whole.zoom && viewer.viewport.getCenter().equals(whole.centre);

/** The level-0 point at a place on the stage. */
export function level0(position) {
  const point = viewer.viewport.pointFromPixel(position, true);
  return [point.x * facts.width, point.y * facts.width];
}

/** Where level-0 pixels are on the stage, in device pixels. */
function frame() {
  const ratio = devicePixelRatio;
  const { viewport } = viewer;
  const one = viewport.pixelFromPoint(new OpenSeadragon.Point(1, 0), true);
  const zero = viewport.pixelFromPoint(new OpenSeadragon.Point(0, 0), true);
  const size = viewport.getContainerSize();
  return {
    ratio,
    scale: (ratio * (one.x - zero.x)) / facts.width,
    corner: [zero.x * ratio, zero.y * ratio],
    size: [Math.round(size.x * ratio), Math.round(size.y * ratio)],
  };
}

export function draw() {
  if (!facts || !viewer.world.getItemCount()) return;
  const where = frame();
  for (const { canvas } of [map, outlines]) {
    if (canvas.width !== where.size[0]) canvas.width = where.size[0];
    if (canvas.height !== where.size[1]) canvas.height = where.size[1];
  }
  map.draw(where);
  if (moving && outlines.heavy && where.size.every((side, axis) => side === outlines.frame.size[axis])) outlines.follow(where);
  else outlines.draw(where);
  const um = (facts.mpp * where.ratio) / where.scale; // per CSS pixel
  const bar = roundLength(160 * um);
  the("bar").style.width = `${bar / um}px`;
  the("length").textContent = length(bar);
}

// A line of words above the stage may come late and take of its height: who saw the whole slide still does.
viewer.addHandler("resize", () => { fitting ||= isWhole(); });
viewer.addHandler("viewport-change", () => {
  if (!fitting) return;
  fitting = false;
  showWhole(true);
});
viewer.addHandler("animation-start", () => { moving = true; });
viewer.addHandler("animation-finish", () => { moving = false; draw(); });
viewer.addHandler("update-viewport", draw);
viewer.addHandler("map-failed", ({ message }) => tell(message));
viewer.addHandler("tile-load-failed", async ({ tile }) => {
  const answer = await fetch(tile.getUrl()); // for the sentence that tells why
  if (!answer.ok) tell((await answer.json()).error);
});
viewer.addHandler("canvas-key", (event) => {
  const kept = ["ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight", "+", "=", "-"];
  event.preventDefaultAction = !kept.includes(event.originalEvent.key);
});
the("closer").addEventListener("click", () => zoomBy(1.5));
the("farther").addEventListener("click", () => zoomBy(1 / 1.5));
the("whole").addEventListener("click", () => showWhole());
viewer.canvas.append(map.canvas, outlines.canvas);
