//! Bundles of OPA: a gzipped archive with policies and data.

use std::io::Read as _;

use flate2::read::GzDecoder;
use tidegate_core::BuildError;

/// Maximum size of an unpacked bundle in bytes.
const MAX_SIZE: u64 = 32 * 1024 * 1024;
/// Size of a block of an archive in bytes.
const BLOCK: usize = 512;

/// A policy or a data document, with its name for messages.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Source {
    pub(super) name: String,
    pub(super) text: String,
}

/// What is wrong with a bundle.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum BundleError {
    #[error("not a gzipped archive")]
    Gzip,
    #[error("larger than {MAX_SIZE} bytes when unpacked")]
    TooLarge,
    #[error("the archive is malformed")]
    Malformed,
    #[error("unsupported entry `{0}`")]
    Unsupported(String),
    #[error("{0}: not UTF-8")]
    Text(String),
    #[error("{0}: expected JSON")]
    Yaml(String),
}

/// The content of a bundle.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Bundle {
    pub(super) policies: Vec<Source>,
    pub(super) data: Vec<Source>,
}

impl Bundle {
    /// Unpacks a bundle. `path` is for messages.
    pub(super) fn read(path: &str, packed: &[u8]) -> Result<Self, BuildError> {
        Self::unpack(packed).map_err(|error| BuildError::new(format!("bundlePath: {path}: {error}")))
    }

    fn unpack(packed: &[u8]) -> Result<Self, BundleError> {
        let mut archive = Vec::new();
        GzDecoder::new(packed).take(MAX_SIZE + 1).read_to_end(&mut archive).map_err(|_| BundleError::Gzip)?;
        if archive.len() as u64 > MAX_SIZE {
            return Err(BundleError::TooLarge);
        }
        let mut bundle = Self::default();
        let mut rest = &archive[..];
        while let Some((head, after)) = rest.split_at_checked(BLOCK) {
            if head.iter().all(|byte| *byte == 0) {
                return Ok(bundle);
            }
            let (name, size, kind) = entry(head).ok_or(BundleError::Malformed)?;
            let content = after.get(..size).ok_or(BundleError::Malformed)?;
            let padded = size.next_multiple_of(BLOCK).min(after.len());
            rest = after.get(padded..).unwrap_or_default();
            match kind {
                b'0' | 0 => bundle.add(&name, content)?,
                // Folders, and attributes that change nothing.
                b'5' | b'g' => {}
                b'x' if !contains(content, b" path=") => {}
                _ => return Err(BundleError::Unsupported(name)),
            }
        }
        Err(BundleError::Malformed)
    }

    fn add(&mut self, name: &str, content: &[u8]) -> Result<(), BundleError> {
        let name = name.trim_start_matches("./").trim_start_matches('/');
        let (folder, file) = name.rsplit_once('/').unwrap_or(("", name));
        let text = || match std::str::from_utf8(content) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(BundleError::Text(name.to_owned())),
        };
        match file {
            "data.json" => {
                let mut text = text()?;
                // The document of a folder is at its path.
                for part in folder.rsplit('/').filter(|part| !part.is_empty()) {
                    text = format!("{{{}:{text}}}", serde_json::Value::from(part));
                }
                self.data.push(Source { name: name.to_owned(), text });
            }
            "data.yaml" | "data.yml" => return Err(BundleError::Yaml(name.to_owned())),
            file if file.ends_with(".rego") && !file.ends_with("_test.rego") => {
                self.policies.push(Source { name: name.to_owned(), text: text()? });
            }
            _ => {}
        }
        Ok(())
    }
}

/// Reads the head of an entry: its name, its size, and its kind.
fn entry(head: &[u8]) -> Option<(String, usize, u8)> {
    let field = |from: usize, length: usize| {
        let field = head.get(from..from + length)?;
        let end = field.iter().position(|byte| *byte == 0).unwrap_or(length);
        std::str::from_utf8(field.get(..end)?).ok()
    };
    let size = usize::from_str_radix(field(124, 12)?.trim(), 8).ok()?;
    let is_ustar = field(257, 5)? == "ustar";
    let prefix = if is_ustar { field(345, 155)? } else { "" };
    let name = field(0, 100)?;
    let name = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
    Some((name, size, *head.get(156)?))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    memchr::memmem::find(bytes, part).is_some()
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write as _;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    /// Packs files as `opa build` does.
    pub(in crate::opa) fn packed(files: &[(&str, u8, &str)]) -> Vec<u8> {
        let mut archive = Vec::new();
        for (name, kind, content) in files {
            let mut head = [0; BLOCK];
            head[..name.len()].copy_from_slice(name.as_bytes());
            head[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
            head[156] = *kind;
            head[257..262].copy_from_slice(b"ustar");
            archive.extend(head);
            archive.extend(content.as_bytes());
            archive.resize(archive.len().next_multiple_of(BLOCK), 0);
        }
        archive.extend([0; 2 * BLOCK]);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&archive).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_bundle_has_policies_and_data() {
        let bundle = Bundle::unpack(&packed(&[
            ("/.manifest", b'0', "{}"),
            ("/a", b'5', ""),
            ("/data.json", b'0', r#"{"x": 1}"#),
            ("./a/b/data.json", b'0', "[1]"),
            ("/a/p.rego", b'0', "package a"),
            ("/a/p_test.rego", b'0', "package a_test"),
        ]));
        let source = |name: &str, text: &str| Source { name: name.into(), text: text.into() };
        assert_eq!(
            bundle.unwrap(),
            Bundle {
                policies: vec![source("a/p.rego", "package a")],
                data: vec![source("data.json", r#"{"x": 1}"#), source("a/b/data.json", r#"{"a":{"b":[1]}}"#)],
            }
        );
    }

    #[test]
    fn what_is_not_a_bundle_is_refused() {
        assert_eq!(Bundle::unpack(b"package a").unwrap_err(), BundleError::Gzip);
        assert_eq!(Bundle::unpack(b"").unwrap_err(), BundleError::Gzip);
        for (kind, content, expected) in [
            (b'2', "", BundleError::Unsupported("f".into())),
            (b'x', "20 path=a-long-name\n", BundleError::Unsupported("f".into())),
        ] {
            assert_eq!(Bundle::unpack(&packed(&[("f", kind, content)])).unwrap_err(), expected);
        }
        let yaml = packed(&[("data.yaml", b'0', "a: 1")]);
        assert_eq!(Bundle::unpack(&yaml).unwrap_err(), BundleError::Yaml("data.yaml".into()));
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(&[b'7'; 3 * BLOCK]).unwrap();
        assert_eq!(Bundle::unpack(&encoder.finish().unwrap()).unwrap_err(), BundleError::Malformed);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        for _ in 0..33 {
            encoder.write_all(&[0; 1024 * 1024]).unwrap();
        }
        assert_eq!(Bundle::unpack(&encoder.finish().unwrap()).unwrap_err(), BundleError::TooLarge);
    }
}
