# The sidecar on distroless: no shell, no package manager, not root, nothing that it has to write.
#
#   docker build -t registry.example/careportals-sidecar .
#   buildah build --format docker -t registry.example/careportals-sidecar .     # OCI's own format has no HEALTHCHECK
#   docker build --platform linux/arm64 -t registry.example/careportals-sidecar .
#
# What is built on and what is shipped on; give digests (…@sha256:…) where a build must be repeatable to the byte, as
# `deploy/release/image` does. Both are of one Debian. The base has roots of trust, a user and no C library: that one, and the compiler's, come from where the program was linked with them, and
# nothing that it does not use comes along.
ARG RUST_IMAGE=docker.io/library/rust:1.95-trixie
ARG BASE_IMAGE=gcr.io/distroless/static-debian13:nonroot

# The stage runs on the builder's own architecture and compiles for the image's, so nothing is emulated.
FROM --platform=${BUILDPLATFORM} ${RUST_IMAGE} AS build
# It writes the list of crates into the program, where scanners for known weaknesses look.
RUN cargo install --locked cargo-auditable --version 0.7.7
WORKDIR /build
COPY deploy/cross deploy/
ARG TARGETARCH
RUN deploy/cross "$TARGETARCH"
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock build.rs ./
# A member of the workspace, which cargo wants to see even where nothing is built from it.
COPY simulator simulator
COPY src src
COPY deploy/build-dist deploy/third-party deploy/image-root deploy/
COPY LICENSE-APACHE LICENSE-MIT ./
# The commit that `version` tells: there is no git here.
ARG REVISION
# Downloaded crates and compiled dependencies stay with the builder from one build to the next. Of our own code nothing
# may stay: cargo goes by the files' times, and those of another checkout can be older than what was built last.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target,sharing=locked \
    find src simulator -name '*.rs' -exec touch {} + \
    && program=$(SIDECAR_COMMIT=$REVISION deploy/build-dist careportals-sidecar "$TARGETARCH") \
    && deploy/image-root "$program" /out

# Told, since buildah 1.28 goes on with the platform of the stage above.
# hadolint ignore=DL3065
FROM --platform=${TARGETPLATFORM} ${BASE_IMAGE}
COPY --from=build /out/ /
# By number, for a kubelet's `runAsNonRoot` cannot tell who a name is.
USER 65532:65532
# What is in flight finishes, then it exits with 0. No port is exposed: it listens on loopback.
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s --retries=3 \
    CMD ["/usr/bin/careportals-sidecar", "healthcheck", "--live"]
ENTRYPOINT ["/usr/bin/careportals-sidecar"]
CMD ["run"]

# Last, since they change with each build and nothing else does.
ARG BASE_IMAGE
ARG VERSION=unreleased
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=https://careportals-sidecar.invalid/
# Where BASE_IMAGE is a digest: the tag that it was of.
ARG BASE_NAME
ARG BASE_DIGEST=unknown
LABEL org.opencontainers.image.title="careportals-sidecar" \
      org.opencontainers.image.description="A local authenticating proxy for CarePortals" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT" \
      org.opencontainers.image.vendor="The careportals-sidecar authors" \
      org.opencontainers.image.url="${SOURCE}" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.base.name="${BASE_NAME:-$BASE_IMAGE}" \
      org.opencontainers.image.base.digest="${BASE_DIGEST}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
