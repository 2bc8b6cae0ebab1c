# An image of one static binary. scripts/image.sh (`make image`) builds the binary and puts it beside a copy of this file.
FROM scratch
COPY tidegate /tidegate
COPY certs /etc/ssl/certs
COPY tmp /tmp
EXPOSE 80 443
ENTRYPOINT ["/tidegate"]
