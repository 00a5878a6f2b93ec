import { expect, test } from "bun:test";
import { visible } from "../../widget/pages/visible.ts";

test.each([
  ["/about", "/about"],
  ["/two words", "/two words"],
  ["/café/日本語/שלום", "/café/日本語/שלום"],
  ["/about\u200b", "/about⟨U+200B⟩"],
  ["/ab\u200dout", "/ab⟨U+200D⟩out"],
  ["/about\ufeff", "/about⟨U+FEFF⟩"],
  ["/ab\u00adout", "/ab⟨U+00AD⟩out"],
  ["/\u202etuoba", "/⟨U+202E⟩tuoba"],
  ["/\u2067a\u2069", "/⟨U+2067⟩a⟨U+2069⟩"],
  ["/a\u3164", "/a⟨U+3164⟩"],
  ["/\u{e0041}", "/⟨U+E0041⟩"],
  ["/a\u00a0\u2003b", "/a⟨U+00A0⟩⟨U+2003⟩b"],
  [" /a  b ", "⟨U+0020⟩/a⟨U+0020⟩ b⟨U+0020⟩"],
  ["/می\u200cخواهم", "/می\u200cخواهم"],
  ["/می\u200c", "/می⟨U+200C⟩"],
  ["/می\u200c\u200cخواهم", "/می⟨U+200C⟩⟨U+200C⟩خواهم"],
  ["/क्\u200dष", "/क्\u200dष"],
  ["/👩\u200d👩\u200d👧", "/👩\u200d👩\u200d👧"],
  ["/❤\ufe0f", "/❤\ufe0f"],
  ["/a\ufe0f", "/a⟨U+FE0F⟩"],
])("dashboard: the page %p is shown as %p", (name, shown) => {
  expect(visible(name)).toBe(shown);
});
