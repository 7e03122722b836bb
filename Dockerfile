# Fastpaca Context Store: the sources and Node, on Debian slim; runs as uid 10001 with a read-only root and one volume.
#
#   docker build -t fastpaca .
#   docker run -p 4000:4000 -v fastpaca:/data fastpaca            # a complete single node
#   docker run --rm -v fastpaca:/data fastpaca --check            # validates the configuration and ends
#
# To pin the bases by digest as well: --build-arg NODE_IMAGE=node@sha256:… --build-arg BASE_IMAGE=debian@sha256:…
ARG NODE_IMAGE=node:26.10.0-trixie-slim
ARG BASE_IMAGE=debian:13.7-slim

FROM ${NODE_IMAGE} AS build
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --omit=dev --no-audit --no-fund
# What a server never reads: types, source maps, C++ sources and binaries of other systems. The native addon has to load
# here, so that a platform without a binary fails the build and not the start.
RUN find node_modules -type f \( -name '*.map' -o -name '*.d.ts' -o -name '*.d.cts' -o -name '*.d.mts' \) -delete \
  && rm -rf node_modules/classic-level/deps \
  && find node_modules/classic-level/prebuilds -mindepth 1 -maxdepth 1 -not -name "linux-$(node -p process.arch)*" -exec rm -rf {} + \
  && node -e "import('classic-level').then(() => undefined)"
COPY LICENSE ./
COPY deploy/healthcheck.ts deploy/
COPY raft raft
COPY archiver archiver
COPY src src
# Compiled once, here, for the user that runs it (the cache is told apart by uid) and under the flags it runs with: a start
# takes half the time and never loads the compiler, which is 30 MB of memory. The root may be read-only, as nothing is added.
ENV NODE_COMPILE_CACHE=/app/.compile-cache
RUN install --directory --owner=10001 --group=10001 .compile-cache \
  && setpriv --reuid=10001 --regid=10001 --clear-groups node src/main.ts --version \
  && setpriv --reuid=10001 --regid=10001 --clear-groups node --input-type=module -e "(await import('/app/src/engine.ts')).tuneEngine(); await import('/app/src/node.ts'); await import('/app/src/tokens/worker.ts').catch(() => undefined); process.exit()" \
  && chmod --recursive a+rX .compile-cache

# Only the node binary is taken along: no npm, no compiler, nothing to install more with.
FROM ${BASE_IMAGE}
RUN apt-get update \
  && apt-get install --yes --no-install-recommends libatomic1 \
  && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/apt /var/log/dpkg.log \
  && groupadd --system --gid 10001 fastpaca \
  && useradd --system --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin fastpaca \
  && install --directory --owner=10001 --group=10001 --mode=0700 /data
COPY --from=build /usr/local/bin/node /usr/local/bin/node
COPY --from=build /app /app
WORKDIR /app
ENV NODE_ENV=production NODE_COMPILE_CACHE=/app/.compile-cache FASTPACA_RAFT_DATA_DIR=/data
VOLUME /data
EXPOSE 4000
# By number, so that Kubernetes can tell that it is not root.
USER 10001:10001
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 CMD ["node", "deploy/healthcheck.ts"]
# No shell in between: SIGTERM reaches the server, which hands its leaderships over and ends within 10 s.
ENTRYPOINT ["node", "src/main.ts"]
