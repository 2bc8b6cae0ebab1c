//! docs/cluster.md and the files of examples/cluster: they are the same.

use std::fs;
use std::path::Path;

pub const PAGE: &str = include_str!("../../docs/cluster.md");

/// The fenced blocks of a text: language and content.
pub fn blocks(text: &str) -> Vec<(&str, &str)> {
    text.split("```").skip(1).step_by(2).filter_map(|block| block.split_once('\n')).collect()
}

/// The name of the file that a block is.
pub fn file_name(block: &str) -> Option<&str> {
    block.lines().next()?.strip_prefix("# ").filter(|name| name.contains('.') && !name.contains(' '))
}

#[test]
fn the_example_has_the_files_of_the_page() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cluster");
    let mut files = 0;
    for (_, body) in blocks(PAGE) {
        if let Some(name) = file_name(body) {
            assert_eq!(fs::read_to_string(folder.join(name)).unwrap(), body, "{name}");
            files += 1;
        }
    }
    assert_eq!(files, fs::read_dir(folder).unwrap().count());
}
