// The path of a request as a picture: columns of boxes, each a link, joined by lines.
import { element, svg } from "./dom.js";
import { stateOf } from "./parts.js";

const BOX = { width: 172, height: 46, gap: 14, space: 36, top: 30 };
const MAX_TEXT = 20;
const MAX_ROWS = 12;

const cut = (text) => (text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT - 1)}…` : text);

function box(node, x, y) {
  const [sign, word, tone] = node.state ? stateOf(node.state) : ["", "", ""];
  const title = [node.kind, node.text, word, node.note].filter(Boolean).join(", ");
  const parts = [
    svg("title", {}, title),
    svg("rect", { class: `box ${tone}`, x, y, width: BOX.width, height: BOX.height, rx: 7 }),
    svg("text", { class: "name", x: x + 10, y: y + (node.note ? 19 : 28) }, cut(node.text)),
    node.note && svg("text", { class: "note", x: x + 10, y: y + 36 }, cut(node.note)),
    sign && svg("text", { class: `sign ${tone}`, x: x + BOX.width - 18, y: y + 19 }, sign),
  ];
  return node.href ? svg("a", { href: node.href, "aria-label": title }, parts) : svg("g", {}, parts);
}

function limited(column) {
  const { nodes } = column;
  if (nodes.length <= MAX_ROWS) return nodes;
  return [...nodes.slice(0, MAX_ROWS), { text: `and ${nodes.length - MAX_ROWS} more`, kind: column.title }];
}

function lines(before, after) {
  // Boxes with a parent are joined to it, others to all before.
  return after.flatMap((to) => before.filter((from) => !to.node.from || to.node.from === from.node.key).map((from) => {
    const [x1, y1, x2, y2] = [from.x + BOX.width, from.y + BOX.height / 2, to.x - 5, to.y + BOX.height / 2];
    const bend = (x2 - x1) / 2;
    return svg("path", { class: "line", d: `M${x1} ${y1}C${x1 + bend} ${y1} ${x2 - bend} ${y2} ${x2} ${y2}`, "marker-end": "url(#arrow)" });
  }));
}

/** Returns the picture of columns: each has a title and nodes with `text`, and perhaps `note`, `state`, `href`, `key` and `from`. */
export function picture(name, columns) {
  const filled = columns.filter((column) => column.nodes.length > 0);
  const placed = filled.map((column, at) => limited(column).map((node, row) => ({
    node, x: 4 + at * (BOX.width + BOX.space), y: BOX.top + row * (BOX.height + BOX.gap),
  })));
  const rows = Math.max(1, ...placed.map((column) => column.length));
  const [width, height] = [filled.length * (BOX.width + BOX.space) - BOX.space + 8, BOX.top + rows * (BOX.height + BOX.gap)];
  const told = filled.map((column) => `${column.title}: ${limited(column).map((node) => node.text).join(", ")}`).join("; ");
  return element("div", { class: "panel picture", role: "region", "aria-label": name, tabindex: "0" }, svg("svg", {
    viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-labelledby": "picture-title picture-desc",
  },
  svg("title", { id: "picture-title" }, name),
  svg("desc", { id: "picture-desc" }, told),
  svg("defs", {}, svg("marker", { id: "arrow", viewBox: "0 0 8 8", refX: 7, refY: 4, markerWidth: 7, markerHeight: 7, orient: "auto" },
    svg("path", { class: "head", d: "M0 0L8 4L0 8z" }))),
  placed.slice(1).flatMap((column, at) => lines(placed[at], column)),
  placed.map((column, at) => svg("g", {},
    svg("text", { class: "title", x: column[0].x, y: 18 }, filled[at].title), column.map(({ node, x, y }) => box(node, x, y))))));
}
