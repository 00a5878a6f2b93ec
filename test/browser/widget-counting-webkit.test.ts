/** The widget in WebKit on pages that this project did not write. */
import { testCounting } from "./counting.ts";

testCounting("webkit");
