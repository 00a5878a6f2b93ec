/**
 * What the service's own pages and `data-debug` say in English. zh.ts has the same texts, or does not compile. `{name}` stands
 * for a value. Texts that only a page's HTML uses are in a section of their own, so that its script does not carry them.
 */

/** home.html */
export const homePage = {
  description: "How many people are on your site right now: one small service and one script tag.",
  lead: "Shows how many people are on your site right now. One small service, one script tag.",
  onlineNow: "online now",
  connecting: "Connecting …",
  paste: "Put it on your site",
  copy: "Copy",
  sites:
    "Tell the service which sites it counts, for example with <code>SITES=example.com</code>. It refuses all other sites.",
  choose: "Choose the number",
  site: "people on the site",
  page: "people on this page",
  peak: "highest number in 24 hours",
  read: "median reading time of this page",
  views: "views of this page, ever",
  total: "views of all pages of the site",
  visitors: "visitors of the site, ever",
  today: "visitors of the site today",
  more: "More of this service",
  json: "JSON",
  jsonFor: "the numbers for your own code",
  docs: "Docs",
  docsFor: "settings, attributes, privacy",
  check: "Check",
  checkFor: "tests your installation",
  dashboard: "Dashboard",
  dashboardFor: "history and reading times, for the operator",
};

/** home.ts */
export const home = {
  connecting: "Connecting …",
  live: "The tag below counts this page. Open the page in another browser and watch the number change.",
  stale: "The connection is lost. This is the last known number. Reconnecting …",
  siteShown: "These are the numbers of {site}, updated every ten seconds.",
  siteStale: "These are the last known numbers of {site}.",
  siteFailed: "There are no numbers of {site}, which is not one of the SITES of this service.",
  copy: "Copy",
  copied: "Copied",
  selected: "Selected",
};

/** check.html */
export const checkPage = {
  title: "Check",
  lead: "Tries from this browser what a page with the widget does, and says what is wrong.",
  yourSite: "Your site",
  check: "Check",
  trying: "Trying …",
  paste: "What goes into your page",
  policy: "If your pages send a Content-Security-Policy, it needs the service in two directives:",
  debug:
    "Still no number? Put <code>data-debug</code> into the script tag. Your page then says in its console what happens.",
};

/** check.ts */
export const check = {
  onlineNow: "online now",
  trying: "Trying …",
  allWorks: "Everything works.",
  wrong: { one: "One thing is wrong.", other: "{count} things are wrong." },
  allWorksSoFar: "Everything works so far. The last check takes a minute.",
  wrongSoFar: {
    one: "One thing is wrong so far. The last check takes a minute.",
    other: "{count} things are wrong so far. The last check takes a minute.",
  },
  noAnswer: "The service does not answer ({reason}).",
  notHeadcount: "not an answer of Headcount",
  problem: "{title}: {detail}.",

  site: "Site",
  enterSite: "Enter the name of your site above to see whether its pages may use this service.",
  noSite: "“{asked}” is not the name of a site. An example is example.com.",
  allowed: "{asked} is allowed.",
  allowedAs: "{asked} is allowed, and counted as {site}.",
  notAllowed:
    "{asked} is not allowed: its pages get no number. Start the service with this setting; if SITES has entries already, add this one after a comma.",

  address: "Your address",
  silentProxy:
    "This page came over https, so there is a proxy in front. That proxy does not say for whom it asks: all visitors seem to come from {address}, and share what one address may do.",
  untrustedProxy:
    "There is a proxy in front ({forwardedFor} came with X-Forwarded-For), but the service does not trust it: all visitors seem to come from {address}, and share what one address may do.",
  noProxy:
    "The service expects a proxy in front (TRUST_PROXY={trustProxy}), and this request came by none, or by one that does not send X-Forwarded-For. As it is, anybody may claim any address.",
  trustTooHigh:
    "TRUST_PROXY={trustProxy} is too high: only {proxies} in X-Forwarded-For ({forwardedFor}). As it is, visitors may claim any address.",
  trustTooLow:
    "The service takes {address} for your address. If that is one of your proxies, TRUST_PROXY is too low: X-Forwarded-For was {forwardedFor}.",
  direct: "You connect directly, and the service sees your address: {address}.",
  through: {
    one: "You connect through a proxy ({socketAddress}), and the service sees your address: {address}.",
    other: "You connect through {count} proxies ({socketAddress}), and the service sees your address: {address}.",
  },

  encryption: "Encryption",
  httpHere: "This is plain http, which is fine on this machine. Pages over https need a service over https.",
  http: "This is plain http. Pages over https cannot use the service: put a proxy with a certificate in front.",
  https: "This page came over https, and the service knows it.",
  httpsUnknown: "This page came over https, but the service does not know it: its cookies do not work on other sites.",

  host: "Host name",
  sameHost: "The service is asked for {host}, as in your address bar.",
  otherHost: "You asked for {shown}, but the service is asked for {host}, so it refuses its own pages.",

  token: "Token",
  tokenGranted: "The service grants this browser a token.",

  cookies: "Cookies",
  noCookies: "No cookie is needed: with IDENTITY=hash the service keeps nothing in browsers.",
  cookieBack:
    "Tested on the service's own site, where its cookie comes back. On your site it may be a third-party cookie, which some browsers drop. The widget then uses an id in your page's localStorage, and the count stays exact.",
  cookieDropped:
    "Tested on the service's own site: this browser or a proxy drops the cookie. The widget then uses an id in your page's localStorage, and the count stays exact wherever pages may use that.",

  webSocket: "WebSocket",
  opens: "A WebSocket opens, and the first number arrives.",
  noUpgrade: "No WebSocket opens, although its address answers: a proxy in front drops the Upgrade header. In nginx:",
  elsewhere: "No WebSocket opens, and its address {address} answers {status}, not 426: a proxy sends it elsewhere.",

  timeout: "Proxy timeout",
  waiting: "Waiting for two pings: {seconds} s",
  stillOpen: "The connection is still open after {seconds} s: the pings arrive (HEARTBEAT_SECONDS={heartbeatSeconds}).",
  restarted: "The service was restarted in the meantime. Reload this page.",
  pingsLost: "The connection was closed after {seconds} s: the pings or their answers are lost on the way.",
  impatient:
    "The connection was closed after {seconds} s, before the first ping (HEARTBEAT_SECONDS={heartbeatSeconds}): a proxy in front has a shorter timeout. Raise that timeout, or lower the setting:",
};

/** dashboard.html */
export const dashboardPage = {
  title: "Dashboard",
  more: "More of this service",
  home: "Home",
  check: "Check",
  docs: "Docs",
  connecting: "Connecting …",
  signIn: "Sign in",
  sites: "Sites",
  peopleNow: "people now",
  openPages: "open pages",
  peak: "highest in 24 hours",
  highest: "highest ever",
  today: "visitors today",
  visitors: "visitors ever",
  views: "views ever",
  history: "People online",
  timeRange: "Time range",
  hour: "Hour",
  day: "Day",
  week: "Week",
  quarter: "90 days",
  chart: "People online over time",
  zoom: "Drag to zoom in, double-click to zoom out.",
  daysTitle: '<span class="views">Views</span> and <span class="visitors">visitors</span>',
  daysShown: "Days shown",
  month: "30 days",
  year: "Year",
  all: "All",
  days: "Views and visitors by day",
  pages: "Pages open now",
  nobody: "Nobody is online.",
  reading: "Reading time",
  noReading: "There are no reading times yet. They appear a few seconds after somebody opens a page.",
  refusals: "Refused requests since the start",
  noRefusals: "No request was refused.",
  node: "This node",
};

/** dashboard.ts */
export const dashboard = {
  peopleNow: { one: "person now", other: "people now" },
  openPages: { one: "open page", other: "open pages" },
  today: { one: "visitor today", other: "visitors today" },
  allVisitors: { one: "visitor ever", other: "visitors ever" },
  allViews: { one: "view ever", other: "views ever" },
  title: "{count} online now – Headcount",
  notLiveTitle: "Not live – Headcount",
  fewer: "Show fewer",
  allPages: "Show all {count}",
  moreRows: "Show {count} more ({left} left)",
  views: { one: "{count} view, {time}", other: "{count} views, {time}" },
  mostRead: "{sum}. The list has the {count} most read pages",
  page: "Page",
  viewsColumn: "Views",
  seconds: "Total time",
  median: "Median",
  p90: "p90",

  state: "State",
  noRedis: "no connection to Redis",
  ok: "ok",
  runningFor: "Running for",
  connections: "Connections",
  connectionsOf: "{count} of {most}",
  memory: "Memory",
  engine: "Engine",
  redis: "Redis, shared by all nodes",
  engineErrors: "Engine errors",
  journalErrors: "Errors while saving statistics",
  runtime: "Runtime",

  live: "Live",
  stale: "No connection to Redis. These are the last known totals plus changes on this node",
  signIn: "Please sign in",
  notReachable: "The service is not reachable ({reason})",
  notReachableSince: "The service is not reachable ({reason}) since {time}. These are the last known numbers",
  noNumbers: "The service sends no numbers ({reason})",
  noNumbersSince: "The service has sent no numbers since {time} ({reason}). These are the last known numbers",
  noHistory: "Cannot load the history: {reason}",
};

/** ask.ts */
export const ask = {
  noAnswer: "no answer",
};

/** refusals.ts. By the reasons of edge/guard.ts. */
export const refusals = {
  address: "Address denied",
  bot: "Crawlers are not counted",
  origin: "Origin not allowed",
  token: "Token not valid",
  body: "Body not valid",
  page: "Page name not valid",
  pages: "Too many pages in one request",
  range: "Range not valid",
  badge: "Badge not valid",
  host: "Host not valid",
  handshake: "Handshake not valid",
  password: "Wrong password",
  unknown: "Not found",
  site: "Site not found",
  url: "Address too long",
  size: "Body too large",
  upgrade: "Not a WebSocket",
  guesses: "Too many wrong passwords",
  tokens: "Too many token requests",
  visitors: "Too many new visitors",
  visitor_pages: "Too many open pages of one visitor",
  address_pages: "Too many open pages of one address",
  numbers: "Numbers cannot be read",
  error: "Internal error",
  full: "Full",
  draining: "Restarting",
};

/** chart.ts */
export const chart = {
  notKnown: "Not known",
  highest: "Highest: {value}",
  nobody: "Nobody was online.",
};

/** days.ts */
export const days = {
  views: { one: "{count} view", other: "{count} views" },
  visitors: { one: "{count} visitor", other: "{count} visitors" },
  days: { one: "{count} day", other: "{count} days" },
  sum: "{views} in {days} · highest: {most} on {date}",
  nothing: "Nothing was counted.",
  notLoaded: "Cannot load the days: {reason}",
};

/** document.html */
export const documentPage = {
  more: "More of this service",
  home: "Home",
  docs: "Docs",
  check: "Check",
  dashboard: "Dashboard",
};

/** debug.ts. Each is a line in the console of an owner's page, after the name Headcount. */
export const debug = {
  where: "this page is on {page}, the service is at {server}",
  live: "live. {site} on the site, {page} on this page",
  noElement: "this page has no element for the number. Add one:",
  unknownNumber: 'data-headcount="{kind}" is unknown. Known values are {known}',
  policy: "this page's Content-Security-Policy ({directive}) blocks {blocked}. Add to it:",
  nothingStored: "nothing is stored in this browser (IDENTITY=hash)",
  cookie: "this browser accepts the cookie of the service",
  noCookie:
    "this browser drops the cookie of the service, so the widget uses the localStorage of this page, which counts as exactly",
  noStorage:
    "this browser drops the cookie of the service and blocks localStorage, so every page load counts as a new visitor",
  privacyControl: "this browser sends Global Privacy Control, so it sees the numbers and is not counted",
  off: "this browser opened a page with #headcount-off: it sees the numbers, and is not counted until a page with #headcount-on",
  observe: "the tag has data-observe, so this page sees the numbers and is not counted",

  check: "Check your installation: {address}",
  noOrigin: "this page is a local file or is in a sandbox, so it has no origin and belongs to no site",
  answers: "{server} answers {status}. Perhaps Headcount does not run there",
  notAllowed:
    "the service does not count {origin}. Start it with this setting (if SITES has entries already, add this one after a comma):",
  refused: "the service refused this page: {title}. {detail}",
  noSocket: "the service grants a token, but no WebSocket opens. A proxy drops the Upgrade header. For nginx:",
  noRedis: "the service has no connection to Redis, so these are the last known numbers",
  back: "the connection was lost and works again. The widget reconnects within a minute",
  offline: "this browser is offline",
  mixed: "this page came over https, so it cannot use {server}. The service needs https too",
  noAnswer: "{server} does not answer. It is down or not reachable from here, or its certificate is not valid",
  polls: "no WebSocket opens, so the widget asks for the number every 30 s",
};
