//! Command-line flags: `--entryPoints.web.address=:80`.
