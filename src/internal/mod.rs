//! Services of the gateway's own that a router can name: `api@internal`, `ping@internal`, `noop@internal`.
