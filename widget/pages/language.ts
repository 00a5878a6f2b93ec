/** Runs before uPlot, which passes `navigator.language` to Intl. Intl refuses the one that WebKitGTK has with LANG=C. */
try {
  Intl.getCanonicalLocales(navigator.language);
} catch {
  Object.defineProperty(navigator, "language", { value: "en" });
}
