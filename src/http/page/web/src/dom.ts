// Building the page. Whatever comes from outside becomes text, never markup.

export function byId<T extends HTMLElement>(id: string): T {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no #${id}`);
  return found as T;
}

export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Sets a text only where it differs, so that nothing is laid out or announced again for nothing. */
export function say(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** A number with its exact value beside what is read. */
export function figure(value: number, words: string): HTMLDataElement {
  return make("data", { value: String(value) }, words);
}

export function showFigure(id: string, value: number | null, words: string): void {
  byId(id).replaceChildren(value === null ? "–" : figure(value, words));
}

export function numberCell(value: number, words: string): HTMLTableCellElement {
  return make("td", { class: "number" }, figure(value, words));
}

export function swatch(colour: string): HTMLSpanElement {
  const span = make("span", { class: "swatch", "aria-hidden": "true" });
  span.style.background = colour;
  return span;
}
