/** A real nginx as a child process, with the configuration of the documentation and none of the machine's own. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { ask } from "./client.ts";
import { adopt, temporaryFolder } from "./leftovers.ts";
import { pathOf } from "./needs.ts";
import { freePort } from "./redis.ts";
import { until } from "./waiting.ts";

/** The documentation has this text for /etc/nginx/conf.d; test/service/proxy.test.ts fails when it has another one. */
export const configuration = `\
map $http_upgrade $connection_upgrade {
    default upgrade;
    ""      "";
}

upstream headcount {
    server 127.0.0.1:3000;
    keepalive 16;
}

server {
    listen 443 ssl;
    server_name count.example.com;
    ssl_certificate     /etc/ssl/count.example.com.pem;
    ssl_certificate_key /etc/ssl/count.example.com.key;

    location / {
        proxy_pass http://headcount;
        proxy_http_version 1.1;
        proxy_set_header Host              $http_host;
        proxy_set_header Upgrade           $http_upgrade;
        proxy_set_header Connection        $connection_upgrade;
        proxy_set_header X-Forwarded-For   $proxy_add_x_forwarded_for;  # TRUST_PROXY=1
        proxy_set_header X-Forwarded-Proto $scheme;
        proxy_read_timeout 60s;  # must be longer than HEARTBEAT_SECONDS
    }
}
`;

/** What the documentation shows instead of that upstream for two nodes on one machine. */
export const severalNodes = `\
upstream headcount {
    least_conn;                                        # after a restart, the new node gets the newcomers
    server 127.0.0.1:3001 max_fails=1 fail_timeout=5s; # PORT=3001
    server 127.0.0.1:3002 max_fails=1 fail_timeout=5s; # PORT=3002
    keepalive 64;
}
`;

/** What the documentation shows for the server block of a site that serves the service under a path of its own. */
export const underPath = `\
location /headcount/ {
    proxy_pass http://headcount/;
    proxy_http_version 1.1;
    proxy_set_header Host              $http_host;
    proxy_set_header Upgrade           $http_upgrade;
    proxy_set_header Connection        $connection_upgrade;
    proxy_set_header X-Forwarded-For   $proxy_add_x_forwarded_for;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_read_timeout 60s;
}
`;

/** Beside the service under its path, a health check at the root tells that nginx is up. */
const configurationUnderPath = configuration.replace(
  / {4}location \/ \{[^]*? {4}\}\n/,
  () => `${underPath}location = /healthz { proxy_pass http://headcount; }\n`,
);

/** Replaces addresses and paths in the configuration; fails when one of them is not there. */
function fill(whole: string, places: Record<string, string>): string {
  return Object.entries(places).reduce((text, [shown, real]) => {
    if (!text.includes(shown)) throw new Error(`Cannot find "${shown}" in the nginx configuration`);
    return text.replaceAll(shown, real);
  }, whole);
}

/** Several workers that may open many files, or one process, which starts and ends fast. */
const processes = (workers: number): string =>
  workers === 1
    ? "master_process off; events { worker_connections 512; }"
    : `worker_processes ${workers}; worker_rlimit_nofile 20000; events { worker_connections 19000; }`;

const surroundings = (included: string, workers: number): string => `\
daemon off;
pid nginx.pid;
error_log stderr warn;
${processes(workers)}
http {
    access_log off;
    client_body_temp_path tmp/body;
    proxy_temp_path       tmp/proxy;
    fastcgi_temp_path     tmp/fastcgi;
    uwsgi_temp_path       tmp/uwsgi;
    scgi_temp_path        tmp/scgi;
    include ${included};
}
`;

/**
 * Makes a self-signed certificate, which the tests' client accepts. Other tests of the file go on meanwhile, since they may
 * have pings to answer.
 */
async function certificate(folder: string): Promise<{ certificate: string; key: string }> {
  const [pem, key] = [join(folder, "test.pem"), join(folder, "test.key")];
  const curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1"; // an RSA key takes a busy machine seconds
  const request = `req -x509 ${curve} -nodes -days 2 -subj /CN=count.example.com`.split(" ");
  const command = [pathOf("openssl"), ...request, "-out", pem, "-keyout", key];
  const child = adopt(Bun.spawn(command, { stdin: "ignore", stdout: "ignore", stderr: "pipe" }));
  const errors = await child.stderr.text();
  if ((await child.exited) !== 0) throw new Error(`Cannot make a certificate: ${errors}`);
  return { certificate: pem, key };
}

type Surroundings = {
  wrapper?: string[];
  host?: string;
  second?: string;
  workers?: number;
  plain?: boolean;
  isUnderPath?: boolean;
};

export type Proxy = { url: string; stop: () => Promise<void> };

/**
 * Starts nginx in front of a service that listens at `upstream` (host:port). nginx closes connections that are silent for
 * `seconds`. `wrapper` is a command that runs nginx, such as `ip netns exec NAME`, and `host` the address that nginx has
 * there. With `second`, connections are shared out between two nodes; with `plain`, nginx speaks http; with `isUnderPath`, the
 * service is at /headcount/.
 */
export async function startNginx(
  upstream: string,
  seconds: number,
  { wrapper = [], host = "127.0.0.1", second, workers = 1, plain = false, isUnderPath = false }: Surroundings = {},
): Promise<Proxy> {
  const folder = temporaryFolder();
  const port = await freePort();
  const tls = await certificate(folder);
  mkdirSync(join(folder, "tmp"));
  const nodes: Record<string, string> =
    second === undefined
      ? { "127.0.0.1:3000": upstream }
      : {
          "upstream headcount {\n    server 127.0.0.1:3000;\n    keepalive 16;\n}\n": severalNodes,
          "127.0.0.1:3001": upstream,
          "127.0.0.1:3002": second,
        };
  const places = {
    ...nodes,
    "listen 443 ssl": `listen ${host}:${port}${plain ? "" : " ssl"}`,
    "/etc/ssl/count.example.com.pem": tls.certificate,
    "/etc/ssl/count.example.com.key": tls.key,
    "proxy_read_timeout 60s": `proxy_read_timeout ${seconds}s`,
  };
  writeFileSync(join(folder, "headcount.conf"), fill(isUnderPath ? configurationUnderPath : configuration, places));
  writeFileSync(join(folder, "nginx.conf"), surroundings(join(folder, "headcount.conf"), workers));
  const errors = Bun.file(join(folder, "error.log"));
  const command = [...wrapper, pathOf("nginx"), "-p", folder, "-c", "nginx.conf", "-e", "stderr"];
  const child = adopt(Bun.spawn(command, { stdin: "ignore", stdout: "ignore", stderr: errors }));
  const url = `${plain ? "http" : "https"}://${host}:${port}`;
  const stop = async (): Promise<void> => {
    child.kill(workers === 1 ? "SIGKILL" : "SIGTERM"); // SIGTERM ends the workers too
    await child.exited;
  };
  const answers = async (): Promise<boolean> => {
    if (child.exitCode !== null) throw new Error(`nginx ended: ${await errors.text()}`);
    return ask(url, "GET /healthz").then(
      ({ status }) => status === 200,
      () => false,
    );
  };
  try {
    await until("nginx answers", answers, 20_000);
  } catch (error) {
    await stop();
    throw error;
  }
  return { url, stop };
}
