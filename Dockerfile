# An image of one static binary. `make image` (scripts/image.sh) builds the binary and puts it beside this file.
FROM scratch
COPY tidegate /tidegate
COPY tmp /tmp
EXPOSE 80 443
ENTRYPOINT ["/tidegate"]
