FROM oven/bun:1.4.5-alpine AS build
WORKDIR /app
COPY package.json package-lock.json .npmrc ./
RUN bun install --frozen-lockfile --ignore-scripts
COPY . .
RUN bun build.ts

FROM oven/bun:1.4.5-alpine
COPY --from=build /app/dist/server.js /app/server.js
RUN mkdir /data && chown bun:bun /data
USER bun
ENV DATA=/data
VOLUME /data
EXPOSE 3000
HEALTHCHECK --interval=30s --timeout=3s CMD wget -qO- http://127.0.0.1:${PORT:-3000}/healthz || exit 1
CMD ["bun", "/app/server.js"]
