/** Preloaded into a service by a test: looking at a page named boom throws, with a message that would forge a log line. */
// oxlint-disable typescript/unbound-method no-extend-native -- to break the inside of a service is what this is for
const { normalize } = String.prototype;
String.prototype.normalize = function boom(this: string, form?: string): string {
  if (this.includes("boom")) throw new Error("boom \r\n\u001b[31m");
  return normalize.call(this, form);
};
