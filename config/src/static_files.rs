//! Options of services that serve the files of a directory.

use serde::{Deserialize, Serialize};
use tidegate_core::values::is_default;
use tidegate_core::word::{Vocabulary, Word};

/// `http.services.<name>.static`: serves the files of a directory. Not in Traefik.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct StaticFiles {
    /// Absolute path of the directory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub root: String,
    /// Names of the files that represent a directory; the first that exists is served.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub index: Vec<String>,
    /// File for paths that do not exist and have no extension, with status 200; none if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub fallback: String,
    /// Page for status 404; plain text if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub not_found: String,
    /// Codings of compressed siblings, the preferred one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub precompressed: Vec<Word<Precompression>>,
    /// `Cache-Control` of files without a rule; none if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub cache_control: String,
    /// `Cache-Control` by path; the first rule that matches applies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cache_control_rules: Vec<CacheControlRule>,
    /// Serves files and directories whose names begin with a dot.
    #[serde(skip_serializing_if = "is_default")]
    pub hidden: bool,
    /// Which symbolic links are followed.
    #[serde(skip_serializing_if = "Word::is_empty")]
    pub follow_symlinks: Word<FollowSymlinks>,
    /// Maximum number of files that are opened or read at once.
    pub max_reads: usize,
}

impl Default for StaticFiles {
    fn default() -> Self {
        Self {
            root: String::new(),
            index: vec!["index.html".into()],
            fallback: String::new(),
            not_found: String::new(),
            precompressed: Vec::new(),
            cache_control: String::new(),
            cache_control_rules: Vec::new(),
            hidden: false,
            follow_symlinks: FollowSymlinks::Inside.into(),
            max_reads: 64,
        }
    }
}

/// `Cache-Control` for some paths.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct CacheControlRule {
    /// Patterns of paths below the root, such as `/assets/*`; `*` stands for any characters.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
    /// The value; none if empty.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub value: String,
}

/// A coding of files that are compressed in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precompression {
    /// `br`: files with the suffix `.br`.
    Brotli,
    /// `zstd`: files with the suffix `.zst`.
    Zstd,
    /// `gzip`: files with the suffix `.gz`.
    Gzip,
}

impl Vocabulary for Precompression {
    const WORDS: &'static [(&'static str, Self)] =
        &[("br", Self::Brotli), ("zstd", Self::Zstd), ("gzip", Self::Gzip)];
}

/// Which symbolic links below the root are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowSymlinks {
    /// `inside`: relative links whose targets are below the root.
    Inside,
    /// `never`: none.
    Never,
    /// `always`: all.
    Always,
}

impl Vocabulary for FollowSymlinks {
    const WORDS: &'static [(&'static str, Self)] =
        &[("inside", Self::Inside), ("never", Self::Never), ("always", Self::Always)];
}
