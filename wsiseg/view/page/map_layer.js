// The stored map over the slide: raw tiles from the server, coloured here, so that threshold and
// channel change at once. Drawn on device pixels without smoothing: what is shown is what is stored.
"use strict";

import { table } from "./format.js";

const KEPT = 80; // tiles in memory, about 1.5 MB each

export class MapLayer {
  constructor(viewer) {
    this.canvas = document.createElement("canvas");
    this.canvas.className = "layer";
    this.viewer = viewer;
    this.tiles = new Map();
    this.channel = 0;
    this.least = 0.5;
    this.shape = null;
  }

  /** Show the map of a slide: `facts.map` with the address its tiles are at. */
  show(facts, address) {
    this.tiles.clear();
    this.shape = { ...facts.map, tile: facts.tile, address };
  }

  /** Which channel is shown (null: none), and from which value on. */
  choose(channel, least) {
    this.channel = channel;
    this.least = least;
    this.colors = channel === null ? null : table(channel, least);
  }

  /** The stored values at a level-0 point, 0 to 1, from the finest tile at hand; null where there is none. */
  at(x, y) {
    if (!this.shape) return null;
    for (let k = 0; k < this.shape.levels; k++) {
      const step = this.shape.factor * 2 ** k * this.shape.tile;
      const tile = this.tiles.get(`${k}/${Math.floor(x / step)}_${Math.floor(y / step)}`);
      if (!tile?.values) continue;
      const column = Math.floor(x / this.shape.factor / 2 ** k) % this.shape.tile;
      const row = Math.floor(y / this.shape.factor / 2 ** k) % this.shape.tile;
      if (column < 0 || row < 0 || column >= tile.width || row >= tile.height) return null;
      const i = row * tile.width + column;
      return [tile.values[i] / 255, tile.values[tile.width * tile.height + i] / 255];
    }
    return null;
  }

  /** Draw what is in sight. `frame` has device pixels per level-0 pixel and the place of level-0 (0, 0). */
  draw(frame) {
    const pen = this.canvas.getContext("2d");
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    if (!this.shape || this.channel === null) return;
    pen.imageSmoothingEnabled = false;
    const { factor, levels } = this.shape;
    const fits = Math.floor(Math.log2(1 / (factor * frame.scale)));
    const wanted = Math.max(0, Math.min(levels - 1, fits));
    for (const k of wanted < levels - 1 ? [levels - 1, wanted] : [wanted]) {
      for (const tile of this.inSight(k, frame)) {
        if (!tile.values) continue;
        const [left, top, right, bottom] = tile.place.map((edge, i) => Math.round(edge * frame.scale + frame.corner[i % 2]));
        pen.clearRect(left, top, right - left, bottom - top);
        pen.drawImage(this.colored(tile), left, top, right - left, bottom - top);
      }
    }
  }

  /** The tiles of level k that the frame sees; those that are missing are sent for. */
  inSight(k, frame) {
    const { width, height, factor, tile } = this.shape;
    const step = tile * factor * 2 ** k * frame.scale;
    const size = [width, height].map((side) => Math.ceil(side / 2 ** k));
    const [columns, rows] = [0, 1].map((axis) => {
      const first = Math.max(0, Math.floor(-frame.corner[axis] / step));
      const last = Math.min(Math.ceil(size[axis] / tile) - 1, Math.floor((frame.size[axis] - frame.corner[axis]) / step));
      return Array.from({ length: Math.max(0, last - first + 1) }, (_, i) => first + i);
    });
    return rows.flatMap((y) => columns.map((x) => this.tile(k, x, y, size)));
  }

  tile(k, x, y, size) {
    const name = `${k}/${x}_${y}`;
    let tile = this.tiles.get(name);
    if (tile) {
      this.tiles.delete(name); // to the end: used last
    } else {
      const { tile: side, factor } = this.shape;
      const width = Math.min(side, size[0] - x * side);
      const height = Math.min(side, size[1] - y * side);
      const unit = factor * 2 ** k;
      const place = [x * side * unit, y * side * unit, (x * side + width) * unit, (y * side + height) * unit];
      tile = { width, height, place, values: null, picture: null, colors: null };
      this.fetch(tile, `${this.shape.address}/${name}`);
    }
    this.tiles.set(name, tile);
    if (this.tiles.size > KEPT) this.tiles.delete(this.tiles.keys().next().value);
    return tile;
  }

  async fetch(tile, address) {
    const answer = await fetch(address);
    if (!answer.ok) {
      const { error } = await answer.json();
      this.viewer.raiseEvent("map-failed", { message: error });
      return;
    }
    tile.values = new Uint8Array(await answer.arrayBuffer());
    this.viewer.forceRedraw();
  }

  /** The tile as a picture in the colours of now. */
  colored(tile) {
    if (tile.colors === this.colors) return tile.picture;
    tile.picture ??= Object.assign(document.createElement("canvas"), { width: tile.width, height: tile.height });
    const pen = tile.picture.getContext("2d");
    const pixels = new ImageData(tile.width, tile.height);
    const rgba = new Uint32Array(pixels.data.buffer);
    const start = this.channel * tile.width * tile.height;
    for (let i = 0; i < rgba.length; i++) rgba[i] = this.colors[tile.values[start + i]];
    pen.putImageData(pixels, 0, 0);
    tile.colors = this.colors;
    return tile.picture;
  }
}
