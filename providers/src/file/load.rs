//! Finds files, detects changes and decodes them.

use std::collections::BTreeMap;
use std::collections::hash_map::DefaultHasher;
use std::fs;
use std::hash::{Hash, Hasher};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tidegate_config::decode::{decode_config, decode_consumers};
use tidegate_config::{Origin, Problem, Provided, formats};

use super::merge::merge;
use crate::template::{Dialect, Template, Value};

/// Maximum size of a file in bytes, before and after rendering its template.
const MAX_SIZE: usize = 32 << 20;
/// Maximum number of files.
const MAX_FILES: usize = 20_000;
const MAX_DEPTH: usize = 16;
/// A file that changed within this time is read again even if its time stamp is unchanged, as time stamps can
/// be coarse.
const TIMESTAMP_TOLERANCE: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub(super) enum Source {
    File(PathBuf),
    Directory(PathBuf),
}

/// What files contain.
#[derive(Clone, Copy, Debug)]
pub(super) enum Content {
    /// A configuration, which may be a template.
    Routes {
        /// Whether rendered templates are logged.
        log_templates: bool,
    },
    /// Consumers only.
    Consumers,
}

impl Content {
    fn max_size(self) -> usize {
        match self {
            Self::Routes { .. } => MAX_SIZE,
            Self::Consumers => formats::LARGE,
        }
    }
}

impl Source {
    fn path(&self) -> &Path {
        match self {
            Self::File(path) | Self::Directory(path) => path,
        }
    }
}

pub(super) struct Loader {
    source: Source,
    content: Content,
    files: BTreeMap<PathBuf, Known>,
    /// The device of the directory while it had files.
    device: Option<u64>,
    /// Whether the last pass could not read some path; it is reported if the next pass fails too.
    lost: bool,
}

pub(super) struct Loaded {
    pub(super) state: Provided,
    /// Whether a change may be in progress, so that another pass should follow soon.
    pub(super) unsettled: bool,
    /// Whether the file or directory exists.
    pub(super) found: bool,
}

/// A known file.
#[derive(Default)]
struct Known {
    stamp: Option<Stamp>,
    hash: u64,
    /// The last good content.
    good: Option<Provided>,
    /// Why the current content is invalid.
    problem: Option<Problem>,
    /// Whether the last pass did not find the file in an existing directory; the next pass removes it.
    vanished: bool,
    /// The hash of content that was seen once, and is accepted when seen again.
    doubted: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Loader {
    pub(super) fn new(source: Source, content: Content) -> Self {
        Self { source, content, files: BTreeMap::new(), device: None, lost: false }
    }

    /// Reads changed files. With `careful`, writes may be in progress, so new content must be seen twice.
    pub(super) fn load(&mut self, careful: bool) -> Loaded {
        let mut problems = Vec::new();
        let mut unsettled = false;
        let Found { paths, lost } = self.find(&mut problems);
        for path in &paths {
            unsettled |= self.read(path, careful);
        }
        let mut kept = vec![false; lost.len()];
        self.files.retain(|path, known| {
            if paths.binary_search(path).is_ok() {
                return true;
            }
            // It is unknown whether it was removed, as its directory cannot be read.
            if let Some(place) = lost.iter().position(|(place, _)| path.starts_with(place)) {
                kept[place] |= known.good.is_some();
                return true;
            }
            let believed = std::mem::replace(&mut known.vanished, true);
            unsettled |= !believed;
            !believed
        });
        let told = std::mem::replace(&mut self.lost, !lost.is_empty());
        for ((_, mut problem), kept) in lost.into_iter().zip(kept) {
            if kept && !told {
                // It may be about to be replaced.
                unsettled = true;
                continue;
            }
            if kept {
                problem.message += "; the last good content of what was there stays in force";
            }
            problems.push(problem);
        }
        let parts =
            self.files.iter().filter_map(|(path, known)| Some((path.as_path(), known.good.as_ref()?)));
        let mut state = merge(parts);
        problems.extend(self.files.values().filter_map(|known| known.problem.clone()));
        state.problems.extend(problems);
        Loaded { state, unsettled, found: self.source.path().exists() }
    }

    fn find(&mut self, problems: &mut Vec<Problem>) -> Found {
        let mut found = Found::default();
        match &self.source {
            Source::File(path) => match fs::metadata(path) {
                Ok(_) => found.paths.push(path.clone()),
                Err(error) => found.lose(path, format!("cannot read the file: {error}")),
            },
            Source::Directory(path) => {
                list(path, 0, &mut found);
                if found.paths.len() > MAX_FILES {
                    problems.push(problem(
                        path,
                        0,
                        format!("more than {MAX_FILES} files: the others are ignored"),
                    ));
                    found.paths.truncate(MAX_FILES);
                }
                found.paths.sort();
                let device = fs::metadata(path).ok().map(|data| data.dev());
                if !found.paths.is_empty() {
                    self.device = device;
                } else if device.is_some() && self.device.is_some_and(|before| device != Some(before)) {
                    // An unmounted mount point.
                    found.lose(path, "the folder is empty, and on another device than its files were".into());
                }
            }
        }
        found
    }

    /// Reads a file if it has changed. Returns true if it should be checked again soon.
    fn read(&mut self, path: &Path, careful: bool) -> bool {
        let known = self.files.entry(path.to_owned()).or_default();
        known.vanished = false;
        let stamp = match fs::metadata(path) {
            Ok(data) => stamp(&data),
            Err(error) => {
                known.fail(problem(path, 0, format!("cannot read the file: {error}")));
                return false;
            }
        };
        if known.stamp == Some(stamp) && known.doubted.is_none() && settled(stamp) {
            return false;
        }
        let bytes = match contents(path, self.content.max_size()) {
            Ok(bytes) => bytes,
            Err(error) => {
                known.stamp = None;
                known.fail(problem(path, 0, error.to_string()));
                return false;
            }
        };
        let hash = hash(&bytes);
        if known.stamp.is_some() && known.hash == hash {
            (known.stamp, known.doubted) = (Some(stamp), None);
            return false;
        }
        if careful && known.stamp.is_some() && known.doubted != Some(hash) {
            known.doubted = Some(hash);
            return true;
        }
        (known.stamp, known.hash, known.doubted) = (Some(stamp), hash, None);
        match parse(path, &bytes, self.content) {
            Ok(mut provided) => {
                if let Some(earlier) = &known.good {
                    provided.keep_last_good(earlier);
                }
                (known.good, known.problem) = (Some(provided), None);
            }
            Err(problem) => known.fail(problem),
        }
        false
    }
}

impl Known {
    fn fail(&mut self, mut problem: Problem) {
        if self.good.is_some() {
            problem.message += "; the last good content of the file stays in force";
        }
        self.problem = Some(problem);
    }
}

/// The files found.
#[derive(Default)]
struct Found {
    paths: Vec<PathBuf>,
    /// Files and directories that cannot be read, and why.
    lost: Vec<(PathBuf, Problem)>,
}

impl Found {
    fn lose(&mut self, path: &Path, message: String) {
        self.lost.push((path.to_owned(), problem(path, 0, message)));
    }
}

fn list(folder: &Path, depth: usize, found: &mut Found) {
    if let Err(error) = list_entries(folder, depth, found)
        && (depth == 0 || error.kind() != io::ErrorKind::NotFound)
    {
        found.lose(folder, format!("cannot read the folder: {error}"));
    }
}

fn list_entries(folder: &Path, depth: usize, found: &mut Found) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        // Kubernetes keeps versions of a mounted volume in `..*`; `.#name` is an editor's lock file.
        if name.starts_with("..") || name.starts_with(".#") || found.paths.len() > MAX_FILES {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            if depth < MAX_DEPTH {
                list(&entry.path(), depth + 1, found);
            }
            continue;
        }
        let lower = name.to_ascii_lowercase();
        if [".yml", ".yaml", ".toml"].iter().any(|ending| lower.ends_with(ending)) {
            found.paths.push(entry.path());
        }
    }
    Ok(())
}

fn contents(path: &Path, max_size: usize) -> io::Result<Vec<u8>> {
    // Reading a pipe would block.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("this is not a regular file"));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(max_size).unwrap_or(u64::MAX);
    fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() > max_size {
        return Err(io::Error::other(format!("the file is larger than {} MiB", max_size >> 20)));
    }
    Ok(bytes)
}

fn parse(path: &Path, bytes: &[u8], content: Content) -> Result<Provided, Problem> {
    let shown = path.display().to_string();
    let Content::Routes { log_templates } = content else {
        return Ok(decode_consumers(&formats::read_large(&shown, bytes)?));
    };
    let rendered;
    let mut bytes = bytes;
    if bytes.windows(2).any(|pair| pair == b"{{") {
        let text = std::str::from_utf8(bytes).map_err(|error| {
            problem(path, 0, format!("the file is not valid UTF-8: byte {} is invalid", error.valid_up_to()))
        })?;
        rendered = Template::parse(text, Dialect::File)
            .and_then(|template| template.render(&Value::Nil, MAX_SIZE))
            .map_err(|error| problem(path, error.line, format!("template: {}", error.kind)))?;
        if log_templates {
            tracing::debug!("{shown} after its template:\n{rendered}");
        }
        bytes = rendered.as_bytes();
    }
    let provided = decode_config(&formats::read(&shown, bytes)?);
    Ok(provided)
}

fn problem(path: &Path, line: u32, message: String) -> Problem {
    let origin = Origin::File { path: path.display().to_string().into(), line, column: 0 };
    Problem { origin, object: None, message, excerpt: None }
}

fn stamp(data: &fs::Metadata) -> Stamp {
    Stamp {
        device: data.dev(),
        inode: data.ino(),
        length: data.len(),
        modified: (data.mtime(), data.mtime_nsec()),
        changed: (data.ctime(), data.ctime_nsec()),
    }
}

fn settled(stamp: Stamp) -> bool {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let changed = Duration::from_secs(u64::try_from(stamp.changed.0.max(stamp.modified.0)).unwrap_or(0));
    now > changed + TIMESTAMP_TOLERANCE
}

fn hash(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    hasher.finish()
}
