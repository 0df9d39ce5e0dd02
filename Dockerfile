# Two images from one build: `--target ingress` and `--target worker`. Each holds its daemon, the libraries that it
# loads and the trusted certificate authorities; the worker's also holds `ackline`. No shell, nothing writable, no root.
FROM rust:1.95-bookworm AS chef
RUN cargo install --locked cargo-chef@0.1.78
WORKDIR /src

# The list of dependencies, apart from the sources.
FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build
ARG PROFILE=release
COPY --from=plan /src/recipe.json recipe.json
# This layer stays until a dependency changes.
RUN cargo chef cook --locked --profile "$PROFILE" --package ingress --package worker --package cli --bins --recipe-path recipe.json
COPY . .
RUN cargo build --locked --profile "$PROFILE" --package ingress --package worker --package cli --bins --message-format json-render-diagnostics \
    > built.json
RUN deploy/image.sh built.json images

FROM scratch AS ingress
COPY --from=build /src/images/ingress/ /
USER 65532:65532
ENV INGRESS_LISTEN=0.0.0.0:8080 OPS_LISTEN=0.0.0.0:9080
EXPOSE 8080 9080
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["ackline-ingress", "health"]
# Explicit, so that Docker does not mistake another signal, like SIGHUP, for a stop.
STOPSIGNAL SIGTERM
ENTRYPOINT ["ackline-ingress"]

FROM scratch AS worker
COPY --from=build /src/images/worker/ /
USER 65532:65532
ENV OPS_LISTEN=0.0.0.0:9081
EXPOSE 9081
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s CMD ["ackline-worker", "health"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["ackline-worker"]
