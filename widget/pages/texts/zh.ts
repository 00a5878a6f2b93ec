/** What the service's own pages and `data-debug` say in Chinese. Chinese has one form for all numbers. */
import type { TextsOf } from "../words.ts";
import type * as en from "./en.ts";

export const homePage: TextsOf<typeof en.homePage> = {
  description: "你的网站此刻有多少人在看？一个小服务，一行脚本。",
  lead: "显示此刻有多少人正在看你的网站。一个小服务，一行脚本。",
  onlineNow: "人在线",
  connecting: "正在连接……",
  paste: "放到你的网站上",
  copy: "复制",
  sites: "启动时要告诉服务统计哪些网站，例如 <code>SITES=example.com</code>。其他网站一律拒绝。",
  choose: "选择要显示的数字",
  site: "全站在线人数",
  page: "本页在线人数",
  peak: "24 小时内最高在线人数",
  read: "本页阅读时长的中位数",
  views: "本页总浏览量",
  total: "全站总浏览量",
  visitors: "全站总访客数",
  today: "全站今日访客数",
  more: "本服务的其他页面",
  json: "JSON",
  jsonFor: "在自己的代码里取数字",
  docs: "文档",
  docsFor: "设置、属性、隐私",
  check: "检测",
  checkFor: "看看安装得对不对",
  dashboard: "仪表盘",
  dashboardFor: "历史与阅读时长，站长专用",
};

export const home: TextsOf<typeof en.home> = {
  connecting: "正在连接……",
  live: "下面这段代码正在统计本页。换一个浏览器打开本页，就能看到数字变化。",
  stale: "连接断了，这是最后一次收到的数字。正在重新连接……",
  siteShown: "这里显示的是 {site} 的数字，每十秒更新一次。",
  siteStale: "这是 {site} 最后一次已知的数字。",
  siteFailed: "没有 {site} 的数字：本服务的 SITES 里没有这个网站。",
  copy: "复制",
  copied: "已复制",
  selected: "已选中",
};

export const checkPage: TextsOf<typeof en.checkPage> = {
  title: "检测",
  lead: "在这个浏览器里把脚本要做的事逐项试一遍，哪里不对就说哪里。",
  yourSite: "你的网站",
  check: "检测",
  trying: "正在检测……",
  paste: "要放进网页的代码",
  policy: "如果你的网页带有 Content-Security-Policy，需要在这两条指令里加上本服务：",
  debug: "还是没有数字？在 script 标签里加上 <code>data-debug</code>，网页就会在控制台里说明发生了什么。",
};

export const check: TextsOf<typeof en.check> = {
  onlineNow: "人在线",
  trying: "正在检测……",
  allWorks: "一切正常。",
  wrong: { other: "发现 {count} 个问题。" },
  allWorksSoFar: "到目前为止一切正常。最后一项需要一分钟。",
  wrongSoFar: { other: "到目前为止发现 {count} 个问题。最后一项需要一分钟。" },
  noAnswer: "服务没有应答（{reason}）。",
  notHeadcount: "这不是 Headcount 的应答",
  problem: "{title}：{detail}。",

  site: "网站",
  enterSite: "在上面填写网站的域名，看看它的网页能不能使用本服务。",
  noSite: "“{asked}”不是网站的域名。正确的写法例如 example.com。",
  allowed: "{asked} 已获准使用。",
  allowedAs: "{asked} 已获准使用，计入 {site}。",
  notAllowed:
    "{asked} 未获准使用，它的网页得不到数字。请用下面的设置启动服务；如果 SITES 里已有别的网站，就用逗号隔开，加在后面。",

  address: "你的地址",
  silentProxy:
    "本页通过 https 打开，说明前面有反向代理，但代理没有说明请求来自谁：所有访客看起来都来自 {address}，共用一个地址的限额。",
  untrustedProxy:
    "前面有反向代理（X-Forwarded-For 里是 {forwardedFor}），但服务没有信任它：所有访客看起来都来自 {address}，共用一个地址的限额。",
  noProxy:
    "按照设置，前面应该有反向代理（TRUST_PROXY={trustProxy}），但这次请求没有经过代理，或者代理没有发送 X-Forwarded-For。这样一来，谁都可以冒充任何地址。",
  trustTooHigh:
    "TRUST_PROXY={trustProxy} 太大了：X-Forwarded-For 里只有 {proxies} 个地址（{forwardedFor}）。这样一来，访客可以冒充任何地址。",
  trustTooLow:
    "服务认为你的地址是 {address}。如果这其实是你的某个代理，说明 TRUST_PROXY 太小了：X-Forwarded-For 里是 {forwardedFor}。",
  direct: "你直接连到服务，服务看到的就是你的地址：{address}。",
  through: { other: "你经过 {count} 个代理（{socketAddress}）连到服务，服务看到的是你的地址：{address}。" },

  encryption: "加密",
  httpHere: "这里是明文 http，在本机上没有问题。https 的网页需要 https 的服务。",
  http: "这里是明文 http，https 的网页无法使用本服务。请在前面放一个带证书的反向代理。",
  https: "本页通过 https 打开，服务也知道这一点。",
  httpsUnknown: "本页通过 https 打开，但服务不知道：它的 cookie 在别的网站上不起作用。",

  host: "主机名",
  sameHost: "服务收到的主机名是 {host}，与地址栏一致。",
  otherHost: "你访问的是 {shown}，服务收到的主机名却是 {host}，因此它会拒绝自己的页面。",

  token: "令牌",
  tokenGranted: "服务给这个浏览器发放了令牌。",

  cookies: "Cookie",
  noCookies: "不需要 cookie：IDENTITY=hash 时，服务不在浏览器里保存任何东西。",
  cookieBack:
    "在服务自己的域名下测试：cookie 能够送回。在你的网站上它可能是第三方 cookie，有些浏览器会丢弃；这时脚本改用保存在你网页 localStorage 里的编号，人数依然准确。",
  cookieDropped:
    "在服务自己的域名下测试：这个浏览器或者某个代理丢弃了 cookie。脚本会改用保存在你网页 localStorage 里的编号；只要网页能用 localStorage，人数依然准确。",

  webSocket: "WebSocket",
  opens: "WebSocket 可以打开，并收到了第一个数字。",
  noUpgrade: "WebSocket 打不开，但它的地址有应答：前面的代理丢掉了 Upgrade 请求头。nginx 需要这几行：",
  elsewhere: "WebSocket 打不开，它的地址 {address} 返回 {status}，而不是 426：代理把请求转到了别处。",

  timeout: "代理超时",
  waiting: "等待两次 ping：还有 {seconds} 秒",
  stillOpen: "过了 {seconds} 秒，连接仍然打开：ping 能够送达（HEARTBEAT_SECONDS={heartbeatSeconds}）。",
  restarted: "其间服务重新启动了。请刷新本页。",
  pingsLost: "连接在 {seconds} 秒后被关闭：ping 或它的应答在途中丢失了。",
  impatient:
    "连接在 {seconds} 秒后、第一次 ping 之前就被关闭了（HEARTBEAT_SECONDS={heartbeatSeconds}）：前面的代理超时更短。请调大代理的超时，或者调小这项设置：",
};

export const dashboardPage: TextsOf<typeof en.dashboardPage> = {
  title: "仪表盘",
  more: "本服务的其他页面",
  home: "首页",
  check: "检测",
  docs: "文档",
  connecting: "正在连接……",
  signIn: "登录",
  sites: "网站",
  peopleNow: "人在线",
  openPages: "个打开的页面",
  peak: "24 小时内最高",
  highest: "历史最高",
  today: "今日访客",
  visitors: "总访客数",
  views: "总浏览量",
  history: "在线人数",
  timeRange: "时间范围",
  hour: "1 小时",
  day: "1 天",
  week: "1 周",
  quarter: "90 天",
  chart: "在线人数随时间的变化",
  zoom: "拖动可放大，双击还原。",
  daysTitle: '<span class="views">浏览量</span> 与 <span class="visitors">访客数</span>',
  daysShown: "显示的天数",
  month: "30 天",
  year: "1 年",
  all: "全部",
  days: "每天的浏览量与访客数",
  pages: "当前打开的页面",
  nobody: "现在没有人在线。",
  reading: "阅读时长",
  noReading: "还没有阅读时长。有人打开网页后几秒就会出现。",
  refusals: "启动以来拒绝的请求",
  noRefusals: "没有拒绝过请求。",
  node: "本节点",
};

export const dashboard: TextsOf<typeof en.dashboard> = {
  peopleNow: { other: "人在线" },
  openPages: { other: "个打开的页面" },
  today: { other: "今日访客" },
  allVisitors: { other: "总访客数" },
  allViews: { other: "总浏览量" },
  title: "{count} 人在线 – Headcount",
  notLiveTitle: "非实时 – Headcount",
  fewer: "收起",
  allPages: "显示全部 {count} 个",
  moreRows: "再显示 {count} 个（还有 {left} 个）",
  views: { other: "{count} 次浏览，共 {time}" },
  mostRead: "{sum}。表中是阅读最多的 {count} 个页面",
  page: "页面",
  viewsColumn: "浏览量",
  seconds: "总时长",
  median: "中位数",
  p90: "p90",

  state: "状态",
  noRedis: "连不上 Redis",
  ok: "正常",
  runningFor: "已运行",
  connections: "连接数",
  connectionsOf: "{count} / {most}",
  memory: "内存",
  engine: "存储引擎",
  redis: "Redis，所有节点共用",
  engineErrors: "存储引擎出错次数",
  journalErrors: "保存统计数据出错次数",
  runtime: "运行环境",

  live: "实时",
  stale: "连不上 Redis。这里是最后一次得到的总数加上本节点的变化",
  signIn: "请登录",
  notReachable: "连不上服务（{reason}）",
  notReachableSince: "从 {time} 起连不上服务（{reason}）。这里是最后一次得到的数字",
  noNumbers: "服务没有给出数字（{reason}）",
  noNumbersSince: "从 {time} 起服务没有给出数字（{reason}）。这里是最后一次得到的数字",
  noHistory: "无法读取历史数据：{reason}",
};

export const ask: TextsOf<typeof en.ask> = {
  noAnswer: "没有应答",
};

export const refusals: TextsOf<typeof en.refusals> = {
  address: "地址被禁止",
  bot: "爬虫不计入",
  origin: "来源未获准",
  token: "令牌无效",
  body: "请求内容无效",
  page: "页面名无效",
  pages: "一次请求的页面太多",
  range: "时间范围无效",
  badge: "徽章参数无效",
  host: "主机名无效",
  handshake: "握手无效",
  password: "密码不对",
  unknown: "没有这个地址",
  site: "没有这个网站",
  url: "网址太长",
  size: "请求内容太大",
  upgrade: "不是 WebSocket",
  guesses: "密码错误次数太多",
  tokens: "请求令牌太频繁",
  visitors: "新访客太多",
  visitor_pages: "一位访客打开的页面太多",
  address_pages: "一个地址打开的页面太多",
  numbers: "数字暂时读不到",
  error: "内部错误",
  full: "连接已满",
  draining: "正在重启",
};

export const chart: TextsOf<typeof en.chart> = {
  notKnown: "无数据",
  highest: "最高：{value}",
  nobody: "这段时间没有人在线。",
};

export const days: TextsOf<typeof en.days> = {
  views: { other: "{count} 次浏览" },
  visitors: { other: "{count} 位访客" },
  days: { other: "{count} 天" },
  sum: "{days}内 {views} · 最高：{date}，{most} 次",
  nothing: "没有统计到任何访问。",
  notLoaded: "无法读取每日数据：{reason}",
};

export const documentPage: TextsOf<typeof en.documentPage> = {
  more: "本服务的其他页面",
  home: "首页",
  docs: "文档",
  check: "检测",
  dashboard: "仪表盘",
};

export const debug: TextsOf<typeof en.debug> = {
  where: "本页属于 {page}，服务在 {server}",
  live: "已连接。全站 {site} 人，本页 {page} 人",
  noElement: "本页没有显示数字的元素。请加上一个：",
  unknownNumber: '不认识 data-headcount="{kind}"。可用的值有 {known}',
  policy: "本页的 Content-Security-Policy（{directive}）拦住了 {blocked}。请在其中加上：",
  nothingStored: "这个浏览器里没有保存任何东西（IDENTITY=hash）",
  cookie: "这个浏览器接受服务的 cookie",
  noCookie: "这个浏览器丢弃了服务的 cookie，脚本改用本页的 localStorage，统计同样准确",
  noStorage: "这个浏览器丢弃了服务的 cookie，又不允许 localStorage，因此每次打开页面都会算作一位新访客",
  privacyControl: "这个浏览器发送 Global Privacy Control，因此能看到数字，但不被统计",
  off: "这个浏览器打开过带 #headcount-off 的页面：能看到数字，但不被统计，直到打开带 #headcount-on 的页面",
  observe: "标签带有 data-observe，因此本页能看到数字，但不被统计",

  check: "检测你的安装：{address}",
  noOrigin: "本页是本地文件或处在沙箱里，没有来源（origin），不属于任何网站",
  answers: "{server} 返回 {status}。那里运行的也许不是 Headcount",
  notAllowed: "服务不统计 {origin}。请用下面的设置启动服务（如果 SITES 里已有别的网站，就用逗号隔开，加在后面）：",
  refused: "服务拒绝了本页：{title}。{detail}",
  noSocket: "服务发放了令牌，但 WebSocket 打不开。有代理丢掉了 Upgrade 请求头。nginx 需要这几行：",
  noRedis: "服务连不上 Redis，这些是最后一次得到的数字",
  back: "连接断过，现在又正常了。脚本会在一分钟内重新连接",
  offline: "这个浏览器处于离线状态",
  mixed: "本页通过 https 打开，因此不能使用 {server}。服务也需要 https",
  noAnswer: "{server} 没有应答。它没有运行，或从这里访问不到，或证书无效",
  polls: "WebSocket 打不开，脚本改为每 30 秒查询一次数字",
};
