// Builds elements. Content is text or nodes, never markup.
const SVG = "http://www.w3.org/2000/svg";

function build(node, attributes, content) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...content.flat(Infinity).filter((part) => part !== undefined && part !== null && part !== false).map((part) =>
    part instanceof Node ? part : String(part)));
  return node;
}

export const element = (tag, attributes = {}, ...content) => build(document.createElement(tag), attributes, content);
export const svg = (tag, attributes = {}, ...content) => build(document.createElementNS(SVG, tag), attributes, content);
