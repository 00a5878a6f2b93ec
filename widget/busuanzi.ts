/**
 * The drop-in for the scripts of busuanzi and Vercount: the widget, and what fills the elements that their themes have.
 * The fields come first, so that they hear the widget from its first event on.
 */
// oxlint-disable import/no-unassigned-import -- both parts are scripts: loading them runs them
import "./busuanzi-fields.ts";
import "./widget.ts";
