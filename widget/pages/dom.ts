/** What the service's own pages share of the browser. */

/** The address of the service, without a user and a password from the address bar: `fetch` and `WebSocket` refuse those. */
export const base = new URL(".", location.origin + location.pathname).href;

export const byId = (id: string): HTMLElement => document.getElementById(id)!;

/** Writes only what differs: else a selection would be lost, and a screen reader would say a status again. */
export const write = (element: HTMLElement, text: string): void => {
  if (element.textContent !== text) element.textContent = text;
};
