//! Labels: each line of the input is one, `key=value`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tidegate_config::formats::{env, flags, labels};
use tidegate_config::{Config, Origin, decode};

fuzz_target!(|input: &str| {
    let all = || input.split('\n').map(|line| line.split_once('=').unwrap_or((line, "true")));
    let (node, _) = labels::read(all(), &["tidegate", "traefik"], |key| Origin::Label {
        container: "c".into(),
        label: key.into(),
    });
    let provided = decode::decode_config(&node);
    let _ = decode::decode::<Config>(&node);
    let leaves = node.flatten();
    // What was read can be written down and read again.
    let keys: Vec<(String, &str)> =
        leaves.iter().map(|(key, value)| (format!("traefik.{key}"), value.as_str())).collect();
    let again = keys.iter().map(|(key, value)| (key.as_str(), *value));
    let (again, problems) = labels::read(again, &["traefik"], |_| Origin::Internal);
    if problems.is_empty() {
        assert_eq!(decode::decode_config(&again).config, provided.config);
    }
    let _ = flags::read(input.split('\n'), &|steps| steps.len() < 2);
    let _ = env::read(all(), |_, _| true, &|steps| steps.len() < 2);
});
