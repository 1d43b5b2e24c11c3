// What every part of the page needs: its elements, the server, and a line for what goes wrong.
"use strict";

export const the = (id) => document.getElementById(id);

export function element(name, className, text) {
  return Object.assign(document.createElement(name), { className, textContent: text });
}

/** What the server says at an address, as JSON. Throws its sentence where it refuses. */
export async function ask(address) {
  const answer = await fetch(address);
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}

/** Show a message under the slide's name, or, with an empty one, none. */
export function tell(message) {
  the("source").hidden = !message;
  the("source").textContent = message;
}
