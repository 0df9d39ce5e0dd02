# One image with both programs: `ingress`, `worker migrate` and `worker run` are its commands.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# The caches keep dependencies built from one build of the image to the next.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --package ingress --package worker \
    && mkdir /out \
    && cp target/release/ingress target/release/worker /out/

FROM debian:bookworm-slim
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /src/LICENSE-MIT /src/LICENSE-APACHE /usr/share/doc/ackline/
COPY --from=build /out/ /usr/local/bin/
USER 65532:65532
CMD ["ingress"]
