//! What the route files say: each file read, checked and remembered on its own, then joined.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use tidegate_config::{Kind, Map, ObjectRef, Origin, Problem, Provided, formats};

use super::Place;
use crate::template::{Dialect, Template, Value};

/// Largest file that is read, in bytes.
const LARGEST: u64 = 32 << 20;
/// Most files that are read.
const MOST_FILES: usize = 10_000;
/// Most folders inside folders.
const DEEPEST: usize = 16;
/// Most problems that are told of one file.
const MOST_PROBLEMS: usize = 1_000;

/// The files of one place, with what each said last.
#[derive(Debug)]
pub(super) struct Folder {
    place: Place,
    debug: bool,
    files: BTreeMap<PathBuf, Known>,
    first: bool,
}

/// What is known of one file.
#[derive(Debug, Default)]
struct Known {
    stamp: Option<Stamp>,
    bytes: Arc<[u8]>,
    /// The last content that could be read, objects that are broken now in their last good version.
    good: Option<Provided>,
    /// What makes the present content unreadable as a whole.
    unreadable: Option<Problem>,
}

/// What tells without reading that a file has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: Option<SystemTime>,
    length: u64,
    inode: u64,
}

impl Folder {
    pub(super) fn new(place: Place, debug: bool) -> Self {
        Self { place, debug, files: BTreeMap::new(), first: true }
    }

    /// Makes the next reading read every file, whatever its stamp.
    pub(super) fn forget(&mut self) {
        self.files.values_mut().for_each(|known| known.stamp = None);
    }

    /// True when some file has another stamp than when it was read, or when files have come or gone.
    pub(super) fn is_stale(&self) -> bool {
        let (paths, _) = self.list();
        paths.len() != self.files.len()
            || paths.iter().any(|path| self.files.get(path).is_none_or(|known| known.stamp != stamp(path)))
    }

    /// Reads what has changed. `None` when nothing has.
    pub(super) fn read(&mut self) -> Option<Provided> {
        let (paths, mut problems) = self.list();
        let mut changed = std::mem::take(&mut self.first);
        if matches!(self.place, Place::Folder(_)) {
            let before = self.files.len();
            self.files.retain(|path, _| paths.contains(path));
            changed |= self.files.len() != before;
        }
        for path in paths {
            let known = self.files.entry(path.clone()).or_default();
            changed |= known.refresh(&path, self.debug);
        }
        changed.then(|| self.join(&mut problems))
    }

    fn list(&self) -> (Vec<PathBuf>, Vec<Problem>) {
        match &self.place {
            Place::File(path) => (vec![path.clone()], Vec::new()),
            Place::Folder(path) => {
                let (mut paths, mut problems) = (Vec::new(), Vec::new());
                list_folder(path, 0, &mut paths, &mut problems);
                paths.sort();
                (paths, problems)
            }
        }
    }

    /// Joins the files in the order of their names. A name that two files give keeps the first one's object.
    fn join(&self, problems: &mut Vec<Problem>) -> Provided {
        let mut all = Provided::default();
        all.problems.append(problems);
        for known in self.files.values() {
            all.problems.extend(known.unreadable.clone());
            if let Some(good) = &known.good {
                add(&mut all, good);
            }
        }
        all
    }
}

impl Known {
    /// Reads the file when it may have changed. True when there is something new to tell.
    fn refresh(&mut self, path: &Path, debug: bool) -> bool {
        let now = stamp(path);
        if now.is_some() && self.stamp == now {
            return false;
        }
        let bytes = match read_limited(path) {
            Ok(bytes) => bytes,
            Err(problem) => return self.is_unreadable(problem),
        };
        self.stamp = now;
        if self.bytes[..] == bytes[..] && (self.good.is_some() || self.unreadable.is_some()) {
            // Touched, or written anew with the same content, or back after a moment in which it could not be opened.
            return self.unreadable.take_if(|problem| problem.excerpt.is_none() && self.good.is_some()).is_some();
        }
        self.bytes = bytes.into();
        let shown = path.to_string_lossy();
        match parse(&shown, &self.bytes, debug) {
            Ok(mut next) => {
                if let Some(earlier) = &self.good {
                    next.keep_last_good(earlier);
                }
                next.problems.truncate(MOST_PROBLEMS);
                self.good = Some(next);
                self.unreadable = None;
                true
            }
            Err(problem) => self.is_unreadable(problem),
        }
    }

    fn is_unreadable(&mut self, mut problem: Problem) -> bool {
        if self.good.is_some() {
            problem.message.push_str(" (the file's last good content serves on)");
        }
        let news = self.unreadable.as_ref() != Some(&problem);
        self.unreadable = Some(problem);
        news
    }
}

fn parse(path: &str, bytes: &[u8], debug: bool) -> Result<Provided, Problem> {
    let evaluated = evaluate(path, bytes)?;
    let bytes = evaluated.as_deref().map_or(bytes, str::as_bytes);
    if let Some(text) = evaluated.as_deref().filter(|_| debug) {
        tracing::debug!(file = path, "template evaluated:\n{text}");
    }
    let node = formats::read(path, bytes)?;
    let mut provided = tidegate_config::decode_config(&node);
    if !provided.problems.is_empty() {
        formats::excerpt::fill(&mut provided.problems, path, &String::from_utf8_lossy(bytes));
    }
    Ok(provided)
}

/// Evaluates a file as a template, when it is one.
fn evaluate(path: &str, bytes: &[u8]) -> Result<Option<String>, Problem> {
    let Some(text) = std::str::from_utf8(bytes).ok().filter(|text| text.contains("{{")) else { return Ok(None) };
    Template::parse(text, Dialect::File)
        .and_then(|template| template.render(&Value::Nil, LARGEST as usize))
        .map(Some)
        .map_err(|error| Problem {
            origin: Origin::File { path: path.into(), line: error.line, column: 1 },
            object: None,
            message: format!("template: {}", error.message),
            excerpt: None,
        })
}

fn read_limited(path: &Path) -> Result<Vec<u8>, Problem> {
    use std::io::Read as _;
    let problem = |message: String| problem_of(path, message);
    let file = std::fs::File::open(path).map_err(|error| problem(format!("cannot read the file: {error}")))?;
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|error| problem(format!("cannot read the file: {error}")))?;
    if bytes.len() as u64 > LARGEST {
        return Err(problem(format!("the file is larger than {} MiB", LARGEST >> 20)));
    }
    Ok(bytes)
}

fn problem_of(path: &Path, message: String) -> Problem {
    let origin = Origin::File { path: path.to_string_lossy().into(), line: 0, column: 0 };
    Problem { origin, object: None, message, excerpt: None }
}

pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = std::fs::metadata(path).ok()?;
    Some(Stamp { modified: metadata.modified().ok(), length: metadata.len(), inode: metadata.ino() })
}

fn list_folder(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>, problems: &mut Vec<Problem>) {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) => return problems.push(problem_of(folder, format!("cannot read the folder: {error}"))),
    };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        // Names that begin with two dots are Kubernetes' own folders; what is in them is also linked beside them.
        if name.to_string_lossy().starts_with("..") {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if depth < DEEPEST {
                list_folder(&path, depth + 1, paths, problems);
            }
        } else if is_route_file(&path) && path.is_file() {
            if paths.len() == MOST_FILES {
                return problems.push(problem_of(folder, format!("more than {MOST_FILES} files: the others are not read")));
            }
            paths.push(path);
        }
    }
}

fn is_route_file(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ["yml", "yaml", "toml"].iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

/// Adds the objects of one file to those of the files before it.
fn add(all: &mut Provided, file: &Provided) {
    let (to, from) = (&mut all.config, &file.config);
    let mut taken = Vec::new();
    extend(&mut to.http.routers, &from.http.routers, Kind::Router, &mut taken);
    extend(&mut to.http.services, &from.http.services, Kind::Service, &mut taken);
    extend(&mut to.http.middlewares, &from.http.middlewares, Kind::Middleware, &mut taken);
    extend(&mut to.http.servers_transports, &from.http.servers_transports, Kind::ServersTransport, &mut taken);
    extend(&mut to.tcp.routers, &from.tcp.routers, Kind::TcpRouter, &mut taken);
    extend(&mut to.tcp.services, &from.tcp.services, Kind::TcpService, &mut taken);
    extend(&mut to.tcp.middlewares, &from.tcp.middlewares, Kind::TcpMiddleware, &mut taken);
    extend(&mut to.tcp.servers_transports, &from.tcp.servers_transports, Kind::TcpServersTransport, &mut taken);
    extend(&mut to.udp.routers, &from.udp.routers, Kind::UdpRouter, &mut taken);
    extend(&mut to.udp.services, &from.udp.services, Kind::UdpService, &mut taken);
    extend(&mut to.tls.options, &from.tls.options, Kind::TlsOptions, &mut taken);
    extend(&mut to.tls.stores, &from.tls.stores, Kind::TlsStore, &mut taken);
    to.tls.certificates.extend(from.tls.certificates.iter().cloned());
    for object in &taken {
        let origin = file.origins.get(object).cloned().unwrap_or(Origin::Internal);
        let first = all.origins.get(object).map(ToString::to_string).unwrap_or_default();
        let message = format!("{} {} is defined already in {first}: this one is not used", object.kind, object.name);
        all.problems.push(Problem { origin, object: None, message, excerpt: None });
    }
    for (object, origin) in &file.origins {
        if object.kind == Kind::Certificate || !taken.contains(object) {
            all.origins.entry(object.clone()).or_insert_with(|| origin.clone());
        }
    }
    let own = file.problems.iter().filter(|problem| problem.object.as_ref().is_none_or(|object| !taken.contains(object)));
    all.problems.extend(own.cloned());
}

fn extend<T: Clone>(to: &mut Map<T>, from: &Map<T>, kind: Kind, taken: &mut Vec<ObjectRef>) {
    for (name, object) in from {
        if to.contains_key(name) {
            taken.push(ObjectRef { kind, name: name.clone() });
        } else {
            to.insert(name.clone(), object.clone());
        }
    }
}
