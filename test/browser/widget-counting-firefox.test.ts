/** The widget in Firefox on pages that this project did not write. */
import { testCounting } from "./counting.ts";

testCounting("firefox");
