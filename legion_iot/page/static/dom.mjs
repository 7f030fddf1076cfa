// What several parts of the page do to its elements.

export const byId = (id) => document.getElementById(id);

/** An HTML element with properties and children; a text is a child. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

/** An SVG element with attributes; a text is its content. */
export function drawn(tag, attributes = {}, text = "") {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text) made.textContent = text;
  return made;
}

/** Set a text only where it is another one, so that neither a selection nor a screen reader is disturbed. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Show a text, or hide its element where there is none. */
export function sayOrHide(node, text) {
  say(node, text);
  node.hidden = !text;
}
