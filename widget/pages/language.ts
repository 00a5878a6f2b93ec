/** Runs before uPlot, which passes `navigator.language` to Intl. With LANG=C, WebKitGTK has one that Intl refuses. */
try {
  Intl.getCanonicalLocales(navigator.language);
} catch {
  Object.defineProperty(navigator, "language", { value: "en" });
}
