/** A test loads this into a service: code that looks at a page named boom throws, with a message that could forge a log line. */
// oxlint-disable typescript/unbound-method no-extend-native -- this module exists to break the inside of a service
const { normalize } = String.prototype;
String.prototype.normalize = function boom(this: string, form?: string): string {
  if (this.includes("boom")) throw new Error("boom \r\n\u001b[31m");
  return normalize.call(this, form);
};
