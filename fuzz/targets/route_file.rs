//! Route files: YAML, or TOML when the input begins with `#toml`, decoded, joined and shown as a problem's excerpt.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_config::merge::merge;
use tidegate_config::{decode, formats};

fuzz_target!(|input: &[u8]| {
    let path = if input.starts_with(b"#toml") { "f.toml" } else { "f.yml" };
    let node = match formats::read(path, input) {
        Ok(node) => node,
        Err(problem) => {
            assert!(!problem.message.is_empty());
            return;
        }
    };
    let mut provided = decode::decode_config(&node);
    if let Ok(text) = std::str::from_utf8(input) {
        formats::excerpt::fill(&mut provided.problems, path, text);
    }
    for problem in &provided.problems {
        assert!(!problem.to_string().is_empty());
    }
    let all = merge([("file", &provided), ("docker", &provided)]);
    assert!(all.config.http.routers.len() == 2 * provided.config.http.routers.len());
});
