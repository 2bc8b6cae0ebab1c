# The image of the gateway, built from source: `docker build --tag tidegate:dev .`
#
# `make image` makes the same image with the Rust of this machine, without any base image.
# An image that has Rust and a C compiler.
ARG RUST=rust:1.95-bookworm
FROM $RUST AS build
# A profile of Cargo: `--build-arg PROFILE=demo` builds much sooner.
ARG PROFILE=release
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY .cargo .cargo
COPY scripts/static-binary.sh scripts/
COPY wire wire
COPY cache cache
COPY core core
COPY config config
COPY middlewares middlewares
COPY clients clients
COPY acme acme
COPY providers providers
COPY benches benches
COPY src src
RUN PROFILE=$PROFILE scripts/static-binary.sh /image/tidegate
# Authorities that servers and ACME directories are checked with, and a folder for what is written for a while.
RUN mkdir -p /image/etc/ssl/certs /image/tmp && cp /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs

FROM scratch
COPY --from=build /image/ /
EXPOSE 80 443
ENTRYPOINT ["/tidegate"]
