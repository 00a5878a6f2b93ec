import { describe, expect, test } from "bun:test";
import { readSettings } from "../../edge/settings.ts";

describe("settings", () => {
  test("settings: an empty environment gives the documented defaults", () => {
    const { MAX_CONNECTIONS, ...rest } = readSettings({});
    expect(rest).toEqual({
      PORT: 3000,
      HOST: "0.0.0.0",
      TRUST_PROXY: 0,
      DENY: [],
      DATA: "./data",
      GRACE_SECONDS: 5,
      HEARTBEAT_SECONDS: 25,
      TZ: "UTC",
      PUBLIC_DASHBOARD: "false",
      TOKEN_TTL_SECONDS: 30,
      MAX_PAGES_PER_VISITOR: 20,
      MAX_PAGES_PER_IP: 200,
      MAX_TOKENS_PER_IP: 120,
      MAX_VISITORS_PER_IP: 60,
      IDENTITY: "cookie",
      COUNT_BOTS: "false",
    });
    expect(MAX_CONNECTIONS).toBeGreaterThan(100);
  });

  test("settings: every wrong one is named with its value and what is expected", () => {
    const wrong = {
      PORT: "80a",
      GRACE_SECONDS: "-1",
      IDENTITY: "ip",
      DENY: "10.0.0.0/33",
      SITES: "a b://c",
      HOST: "",
      TZ: "Mars",
    };
    expect(() => readSettings(wrong)).toThrow(
      [
        'Cannot read PORT: "80a" is not a port (0–65535)',
        'Cannot read SITES: "a b://c" is not a list of sites such as example.com, https://example.com:8443 or *.example.com: "b://c" is none of them',
        'Cannot read DENY: "10.0.0.0/33" is not a list of addresses and CIDR blocks such as 192.0.2.1 or 2001:db8::/32: "10.0.0.0/33" is none of them',
        'Cannot read GRACE_SECONDS: "-1" is not a number of seconds (0–3600)',
        'Cannot read TZ: "Mars" is not a time zone such as Europe/Berlin',
        'Cannot read IDENTITY: "ip" is not cookie or hash',
      ].join("\n"),
    );
  });
});
