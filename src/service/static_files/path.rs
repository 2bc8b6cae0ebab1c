//! Paths of requests, and of files below a root.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use percent_encoding::percent_decode_str;

/// A path below a root: names joined by `/`, none of which is empty, `.` or `..`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct RelativePath {
    bytes: Vec<u8>,
}

/// What a request's path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// The path below the root; empty for the root itself.
    pub(super) path: RelativePath,
    /// Whether it ends with `/` and so must be a directory.
    pub(super) is_directory: bool,
}

impl RelativePath {
    /// Adds a decoded name. Returns `None` if it could lead elsewhere, or is not a plain name.
    fn push(&mut self, name: &[u8]) -> Option<()> {
        let is_plain = !matches!(name, b"" | b"." | b"..")
            && !name.iter().any(|byte| matches!(byte, b'/' | b'\\' | 0..=0x1f | 0x7f));
        if !is_plain {
            return None;
        }
        if !self.bytes.is_empty() {
            self.bytes.push(b'/');
        }
        self.bytes.extend_from_slice(name);
        Some(())
    }

    /// Parses a path that is written in options: not escaped, with or without a leading slash.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut path = Self::default();
        for name in text.strip_prefix('/').unwrap_or(text).split('/') {
            path.push(name.as_bytes())?;
        }
        Some(path)
    }

    /// Returns the path of a file in this directory. `name` is a plain name.
    pub(super) fn join(&self, name: &Self) -> Self {
        let separator: &[u8] = if self.bytes.is_empty() { b"" } else { b"/" };
        Self { bytes: [&self.bytes, separator, &name.bytes].concat() }
    }

    /// Returns the path with a suffix appended to its last name.
    pub(super) fn with_suffix(&self, suffix: &str) -> Self {
        Self { bytes: [&self.bytes, suffix.as_bytes()].concat() }
    }

    /// Returns true for the root itself.
    pub(super) fn is_root(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Returns the bytes.
    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the path for the operating system.
    pub(super) fn as_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(&self.bytes))
    }

    /// Returns the names.
    pub(super) fn names(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    /// Returns true if the last name has a dot.
    pub(super) fn has_extension(&self) -> bool {
        self.names().last().is_some_and(|name| name.contains(&b'.'))
    }
}

impl Target {
    /// Parses the escaped path of a request, which is decoded once.
    ///
    /// Returns `None` for a path that no file can have: with empty names, `.`, `..`, control characters,
    /// backslashes or encoded slashes. Without `hidden`, names must not begin with a dot, except `.well-known`
    /// (RFC 8615) at the beginning.
    pub(super) fn parse(escaped: &str, hidden: bool) -> Option<Self> {
        let mut rest = escaped.strip_prefix('/')?;
        let mut path = RelativePath::default();
        let is_directory = rest.is_empty() || rest.ends_with('/');
        rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() {
            // `//` has an empty name.
            return (escaped == "/").then_some(Self { path, is_directory });
        }
        for (index, name) in rest.split('/').enumerate() {
            let name: Vec<u8> = percent_decode_str(name).collect();
            if name.starts_with(b".") && !hidden && !(index == 0 && name == b".well-known") {
                return None;
            }
            path.push(&name)?;
        }
        Some(Self { path, is_directory })
    }
}

/// Returns true if `text` matches `pattern`, in which `*` stands for any characters.
pub(super) fn matches(pattern: &str, text: &[u8]) -> bool {
    let mut parts = pattern.as_bytes().split(|byte| *byte == b'*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let Some(last) = parts.next_back() else { return rest.is_empty() };
    for part in parts.filter(|part| !part.is_empty()) {
        let Some(at) = rest.windows(part.len()).position(|window| window == part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(path: &str) -> Option<(String, bool)> {
        let target = Target::parse(path, false)?;
        Some((String::from_utf8(target.path.bytes).unwrap(), target.is_directory))
    }

    #[test]
    fn paths_are_decoded_once() {
        let some = |path: &str, directory| Some((path.to_owned(), directory));
        assert_eq!(parsed("/"), some("", true));
        assert_eq!(parsed("/a%20b/c"), some("a b/c", false));
        assert_eq!(parsed("/a/"), some("a", true));
        assert_eq!(parsed("/%252e%252e/x"), some("%2e%2e/x", false));
        assert_eq!(parsed("/.well-known/security.txt"), some(".well-known/security.txt", false));
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in [
            "",
            "*",
            "a",
            "//",
            "//evil.example/",
            "/a//b",
            "/..",
            "/../etc/passwd",
            "/a/../../b",
            "/%2e%2e/x",
            "/.%2E/x",
            "/a%2fb",
            "/..%2f..%2fetc",
            "/..%5c..%5cetc",
            "/a\\b",
            "/a%00",
            "/%00/a",
            "/a%0a",
            "/.git/config",
            "/%2egit/config",
            "/a/.well-known/x",
            "/./a",
        ] {
            assert_eq!(parsed(path), None, "{path}");
        }
        assert!(Target::parse("/.git/config", true).is_some());
        assert!(Target::parse("/../x", true).is_none());
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("/assets/*", "/assets/a.js", true),
            ("/assets/*", "/other", false),
            ("*.js", "/a/b.js", true),
            ("*.js", "/a/b.jsx", false),
            ("/a", "/a", true),
            ("/a", "/ab", false),
            ("/a*b*c", "/axbxc", true),
            ("/a*b*c", "/axc", false),
            ("*", "", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, text.as_bytes()), expected, "{pattern} {text}");
        }
    }

    proptest! {
        #[test]
        fn no_path_leaves_the_root(path in "(/|%2[eEfF]|%5c|\\.|\\.\\.|\\\\|%00|[a-z]|%|%25){0,12}", hidden: bool) {
            if let Some(target) = Target::parse(&path, hidden) {
                let names: Vec<_> = target.path.as_path().components().collect();
                prop_assert!(names.iter().all(|name| matches!(name, std::path::Component::Normal(_))));
                prop_assert!(!target.path.as_bytes().contains(&0));
            }
        }
    }
}
