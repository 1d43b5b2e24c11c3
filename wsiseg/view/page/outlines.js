// The outlines of tumor.geojson as vectors, and which of them is under the pointer.
"use strict";

const DOT_PX = 4; // a region that would be smaller is drawn as a dot, so that none is overlooked
const PIECE = 64; // vertices drawn as one path: browsers take far more than twice as long for one twice as long
const REVIEW = "rgb(255 170 0)"; // whatever its class: a class of its own is an option for QuPath
const HEAVY = 20000; // so many vertices are not drawn anew for every frame of a movement

/** The bounds [left, top, right, bottom] of vertices that lie flat in an array: x, y, x, y … */
function bounds(flat) {
  const found = [Infinity, Infinity, -Infinity, -Infinity];
  for (let i = 0; i < flat.length; i += 2) {
    if (flat[i] < found[0]) found[0] = flat[i];
    if (flat[i] > found[2]) found[2] = flat[i];
    if (flat[i + 1] < found[1]) found[1] = flat[i + 1];
    if (flat[i + 1] > found[3]) found[3] = flat[i + 1];
  }
  return found;
}

function region(feature, corner, review) {
  const { type, coordinates } = feature.geometry;
  const parts = type === "MultiPolygon" ? coordinates : [coordinates];
  const rings = parts.flat().map((ring) => Float64Array.from(ring.flatMap(([x, y]) => [x - corner[0], y - corner[1]])));
  const boxes = rings.map(bounds);
  const { classification, measurements } = feature.properties;
  const [r, g, b] = classification?.color ?? [200, 0, 0];
  return {
    id: feature.id,
    name: classification?.name ?? "unclassified",
    color: review.has(feature.id) ? REVIEW : `rgb(${r} ${g} ${b})`,
    measurements: measurements ?? {},
    rings,
    box: [0, 1, 2, 3].map((side) => (side < 2 ? Math.min : Math.max)(...boxes.map((one) => one[side]))),
    drawn: { apart: null, pieces: [] },
  };
}

/** Whether an even number of edges lies to the left of a point, or an odd one: then it is inside. */
function holds(rings, x, y) {
  let inside = false;
  for (const ring of rings) {
    for (let i = 0; i + 3 < ring.length; i += 2) {
      const [x0, y0, x1, y1] = [ring[i], ring[i + 1], ring[i + 2], ring[i + 3]];
      if (y0 > y !== y1 > y && x > x0 + ((y - y0) * (x1 - x0)) / (y1 - y0)) inside = !inside;
    }
  }
  return inside;
}

/** The vertices of a ring that are at least `apart` from the one kept before, in x or y; the first and the last are kept. */
function thinned(ring, apart) {
  const kept = [ring[0], ring[1]];
  for (let i = 2; i < ring.length; i += 2) {
    const [x, y] = [ring[i], ring[i + 1]];
    const far = Math.max(Math.abs(x - kept[kept.length - 2]), Math.abs(y - kept[kept.length - 1]));
    if (far >= apart || i === ring.length - 2) kept.push(x, y);
  }
  return kept;
}

/** The rings of a region as short paths with their bounds, with no more vertices than can be told apart. */
function pieces(one, apart) {
  if (one.drawn.apart === apart) return one.drawn.pieces;
  const found = [];
  for (const ring of one.rings) {
    const kept = thinned(ring, apart);
    for (let start = 0; start + 2 < kept.length; start += 2 * (PIECE - 1)) {
      const some = kept.slice(start, start + 2 * PIECE);
      const path = new Path2D();
      path.moveTo(some[0], some[1]);
      for (let i = 2; i < some.length; i += 2) path.lineTo(some[i], some[i + 1]);
      found.push({ path, box: bounds(some), vertices: some.length / 2 });
    }
  }
  one.drawn = { apart, pieces: found };
  return found;
}

/** Whether the frame sees anything of a box of level-0 pixels. */
const sees = ({ scale, corner, size }, [left, top, right, bottom]) =>
  right * scale + corner[0] > 0 && left * scale + corner[0] < size[0] &&
  bottom * scale + corner[1] > 0 && top * scale + corner[1] < size[1];

export class Outlines {
  constructor() {
    this.canvas = document.createElement("canvas");
    this.canvas.className = "layer";
    this.clear();
  }

  clear() {
    this.regions = [];
    this.byId = new Map();
    this.chosen = null;
    this.shown ??= true;
    this.frame = null; // where what is on the canvas was drawn
    this.heavy = false; // whether it took long
  }

  /** Take the features of a GeoJSON collection; `corner` is taken from their coordinates, `review` has the ids to review. */
  show(collection, corner, review) {
    const drawable = collection.features.filter((one) => one.geometry?.type.endsWith("Polygon"));
    this.regions = drawable.map((one) => region(one, corner, review));
    this.byId = new Map(this.regions.map((one) => [one.id, one]));
  }

  /** The smallest region that holds a level-0 point, or null. */
  at(x, y) {
    const hit = this.regions.filter(({ box: [left, top, right, bottom], rings }) =>
      left <= x && x <= right && top <= y && y <= bottom && holds(rings, x, y));
    const size = ({ box: [left, top, right, bottom] }) => (right - left) * (bottom - top);
    return hit.reduce((least, one) => (least && size(least) <= size(one) ? least : one), null);
  }

  draw(frame) {
    const pen = this.canvas.getContext("2d");
    pen.resetTransform();
    pen.clearRect(0, 0, this.canvas.width, this.canvas.height);
    pen.setTransform(frame.scale, 0, 0, frame.scale, ...frame.corner);
    pen.lineJoin = "bevel";
    pen.lineCap = "round";
    this.frame = frame;
    this.heavy = false;
    this.canvas.style.transform = "";
    const seen = this.shown ? this.regions.filter((one) => sees(frame, one.box)) : [];
    this.stroke(pen, seen, { wide: 2, rim: "#ffffffcc" }, frame);
    if (this.chosen) this.stroke(pen, [this.chosen], { wide: 4, rim: "#000000" }, frame);
  }

  /** Move what was drawn last to where it belongs now; what comes into sight is missing until it is drawn. */
  follow(frame) {
    const by = frame.scale / this.frame.scale;
    const [x, y] = [0, 1].map((axis) => (frame.corner[axis] - by * this.frame.corner[axis]) / frame.ratio);
    this.canvas.style.transform = `translate(${x}px, ${y}px) scale(${by})`;
  }

  /** Draw regions in their colours on a wider rim, all rims first. */
  stroke(pen, regions, { wide, rim }, frame) {
    const px = frame.ratio / frame.scale;
    const apart = 2 ** (Math.floor(2 * Math.log2(1 / frame.scale)) / 2); // 0.7 to 1 device pixel
    const dot = DOT_PX * px;
    const isDot = ({ box: [left, top, right, bottom] }) => Math.max(right - left, bottom - top) < dot;
    const lines = regions.filter((one) => !isDot(one))
      .map((one) => [one, pieces(one, apart).filter(({ box }) => sees(frame, box))]);
    this.heavy ||= lines.reduce((sum, [, some]) => sum + some.reduce((n, { vertices }) => n + vertices, 0), 0) > HEAVY;
    pen.strokeStyle = rim;
    pen.lineWidth = (wide + (rim === "#000000" ? 4 : 2)) * px;
    for (const [, some] of lines) for (const { path } of some) pen.stroke(path);
    pen.lineWidth = wide * px;
    for (const [{ color }, some] of lines) {
      pen.strokeStyle = color;
      for (const { path } of some) pen.stroke(path);
    }
    for (const { color, box: [left, top, right, bottom] } of regions.filter(isDot)) {
      pen.fillStyle = color;
      pen.fillRect((left + right - dot) / 2, (top + bottom - dot) / 2, dot, dot);
    }
  }
}
