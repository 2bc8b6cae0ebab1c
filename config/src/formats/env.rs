//! Environment variables: `TRAEFIK_ENTRYPOINTS_WEB_ADDRESS=:80`, and the same with `TIDEGATE_`.
