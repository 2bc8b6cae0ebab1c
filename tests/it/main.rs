//! The gateway from outside, in process: one binary, one file per subject.

fn main() {}
