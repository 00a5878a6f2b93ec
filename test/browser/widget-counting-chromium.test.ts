/** The widget in Chromium on pages that this project did not write. */
import { testCounting } from "./counting.ts";

testCounting("chromium");
