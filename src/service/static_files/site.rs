//! The files of a service: which one a request gets, and how it is described. Everything here may block.

use std::fs::File;
use std::io::{self, Read as _};
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_TYPE, ETAG, HeaderMap, HeaderValue, LAST_MODIFIED, LOCATION, VARY, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, StatusCode};
use tidegate_config::static_files::{FollowSymlinks, Precompression, StaticFiles};
use tidegate_core::{Body, BuildError, BuildErrors, Reason, Response, UpstreamError, reply};

use super::body::FileBody;
use super::coding;
use super::conditions::{Part, Precondition, Validators};
use super::open::{Entry, Root, Stamp};
use super::path::{RelativePath, Target, matches};
use super::reading::Reader;
use super::root;

/// Size up to which a file is read as a whole, and its entity tag made of its content, in bytes.
const SMALL: u64 = 64 * 1024;

/// Maximum number of reads at once: half the threads that a worker has for them.
const MAX_READS: usize = 256;

/// The files of one service.
pub(super) struct Site {
    reader: Reader,
    root: String,
    links: FollowSymlinks,
    hidden: bool,
    index: Vec<RelativePath>,
    fallback: Option<RelativePath>,
    not_found: Option<RelativePath>,
    codings: Vec<Precompression>,
    cache_control: Option<HeaderValue>,
    /// Patterns of paths, and the value for them.
    cache_rules: Vec<(Vec<String>, Option<HeaderValue>)>,
}

/// What a request asks for.
pub(super) struct Asked {
    /// `GET` or `HEAD`.
    pub(super) method: Method,
    /// The escaped path.
    pub(super) path: String,
    /// The query of a redirect.
    pub(super) query: Option<String>,
    /// The header.
    pub(super) headers: HeaderMap,
}

/// A file that is sent.
struct Found {
    /// Its path, without the suffix of a coding.
    path: RelativePath,
    file: File,
    stamp: Stamp,
    coding: Option<Precompression>,
}

/// What the path of a request leads to.
enum Resolved {
    File(Found),
    /// A directory whose path lacks the slash.
    Redirect,
    Nothing,
}

impl Site {
    /// Checks the options.
    ///
    /// # Errors
    ///
    /// The root is not an absolute path, a name or a word is invalid.
    pub(super) fn build(options: &StaticFiles) -> Result<Self, BuildError> {
        let mut errors = BuildErrors::default();
        if !options.root.starts_with('/') || options.root.contains('\0') {
            let message =
                format!("static.root: invalid directory `{}`: expected an absolute path", options.root);
            errors.check(Err::<(), _>(BuildError::new(message)));
        }
        let index = options.index.iter().map(|name| path("index", name));
        let index = errors.check(BuildErrors::collect(index));
        let optional = |option, text: &str| (!text.is_empty()).then(|| path(option, text)).transpose();
        let fallback = errors.check(optional("fallback", &options.fallback));
        let not_found = errors.check(optional("notFound", &options.not_found));
        let codings = options.precompressed.iter().filter_map(|word| word.meaning().transpose());
        let codings = codings
            .map(|word| word.map_err(|error| BuildError::new(format!("static.precompressed: {error}"))));
        let codings = errors.check(BuildErrors::collect(codings));
        let links = options.follow_symlinks.meaning();
        let links = links.map_err(|error| BuildError::new(format!("static.followSymlinks: {error}")));
        let links = errors.check(links);
        let cache_control = errors.check(header("cacheControl", &options.cache_control));
        let rules = options
            .cache_control_rules
            .iter()
            .map(|rule| Ok((rule.paths.clone(), header("cacheControlRules.value", &rule.value)?)));
        let cache_rules = errors.check(BuildErrors::collect(rules));
        if options.max_reads == 0 || options.max_reads > MAX_READS {
            let message = format!("static.maxReads: {}: expected 1 to {MAX_READS}", options.max_reads);
            errors.check(Err::<(), _>(BuildError::new(message)));
        }
        errors.finish()?;
        Ok(Self {
            reader: Reader::new(options.max_reads),
            root: options.root.clone(),
            links: links.flatten().unwrap_or(FollowSymlinks::Inside),
            hidden: options.hidden,
            index: index.unwrap_or_default(),
            fallback: fallback.flatten(),
            not_found: not_found.flatten(),
            codings: codings.unwrap_or_default(),
            cache_control: cache_control.flatten(),
            cache_rules: cache_rules.unwrap_or_default(),
        })
    }

    /// Returns why the root cannot be opened, if so. Waits for it for a bounded time.
    pub(super) fn problem(&self) -> Option<String> {
        let (path, links) = (self.root.clone(), self.links);
        let error = root::check(&self.root, move || Root::open(&path, links).map(drop)).err()?;
        Some(format!("static.root: `{}` cannot be opened, so requests get 503: {error}", self.root))
    }

    /// Returns where the files are read.
    pub(super) fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Returns the response to a request.
    pub(super) fn respond(&self, asked: &Asked) -> Response {
        self.try_respond(asked).unwrap_or_else(|error| {
            tracing::debug!(root = %self.root, path = %asked.path, "cannot read a file: {error}");
            reply::upstream_failure(UpstreamError::NoServer)
        })
    }

    fn try_respond(&self, asked: &Asked) -> io::Result<Response> {
        let root = Root::open(&self.root, self.links)?;
        let target = Target::parse(&asked.path, self.hidden);
        let wanted = coding::wanted(&asked.headers, &self.codings);
        let resolved = match &target {
            Some(target) => self.resolve(&root, target, &wanted)?,
            None => Resolved::Nothing,
        };
        match (resolved, target) {
            (Resolved::File(found), _) => self.file(found, asked),
            (Resolved::Redirect, _) => Ok(redirect(asked)),
            (Resolved::Nothing, Some(target)) if !target.path.has_extension() => {
                match open(&root, self.fallback.as_ref(), &wanted)? {
                    Some(found) => self.file(found, asked),
                    None => self.missing(&root, &wanted, asked),
                }
            }
            (Resolved::Nothing, _) => self.missing(&root, &wanted, asked),
        }
    }

    fn resolve(&self, root: &Root, target: &Target, wanted: &[Precompression]) -> io::Result<Resolved> {
        if !target.is_directory {
            match root.entry(&target.path)? {
                Entry::File(file, stamp) => {
                    let found = Found { path: target.path.clone(), file, stamp, coding: None };
                    return Ok(Resolved::File(compressed(root, found, wanted)?));
                }
                Entry::Directory => {}
                Entry::Nothing => return Ok(Resolved::Nothing),
            }
        }
        for name in &self.index {
            if let Some(found) = open(root, Some(&target.path.join(name)), wanted)? {
                let is_complete = target.is_directory;
                return Ok(if is_complete { Resolved::File(found) } else { Resolved::Redirect });
            }
        }
        Ok(Resolved::Nothing)
    }

    /// Returns the response with a file: all of it, a part, or none if the client has it.
    fn file(&self, mut found: Found, asked: &Asked) -> io::Result<Response> {
        let now = SystemTime::now();
        let content = read_small(&mut found)?;
        let validators = Validators::new(tag(&found, content.as_ref()), found.stamp.seconds, now);
        let size = found.stamp.size;
        let mut response = match validators.evaluate(&asked.headers) {
            Precondition::Failed => {
                return Ok(reply::empty(StatusCode::PRECONDITION_FAILED, Reason::OwnService));
            }
            Precondition::NotModified => own(StatusCode::NOT_MODIFIED),
            Precondition::Met => {
                let part = match asked.method {
                    Method::GET => validators.part(&asked.headers, size, now),
                    _ => Part::Whole,
                };
                match part {
                    Part::Unsatisfiable => {
                        let mut response =
                            reply::empty(StatusCode::RANGE_NOT_SATISFIABLE, Reason::OwnService);
                        insert(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
                        return Ok(response);
                    }
                    Part::Whole => self.send(StatusCode::OK, &found, content, 0..size, asked)?,
                    Part::Bytes(range) => {
                        let text = format!("bytes {}-{}/{size}", range.start, range.end - 1);
                        let mut response =
                            self.send(StatusCode::PARTIAL_CONTENT, &found, content, range, asked)?;
                        insert(&mut response, CONTENT_RANGE, &text);
                        response
                    }
                }
            }
        };
        insert(&mut response, ETAG, &validators.tag);
        if let Some(modified) = validators.modified {
            insert(&mut response, LAST_MODIFIED, &httpdate::fmt_http_date(modified));
        }
        if response.status() != StatusCode::NOT_MODIFIED {
            response.headers_mut().insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        }
        if let Some(value) = self.cache_control(&found.path) {
            response.headers_mut().insert(CACHE_CONTROL, value.clone());
        }
        self.vary(&mut response);
        Ok(response)
    }

    /// Returns the response for something that does not exist.
    fn missing(&self, root: &Root, wanted: &[Precompression], asked: &Asked) -> io::Result<Response> {
        let Some(mut found) = open(root, self.not_found.as_ref(), wanted)? else {
            return Ok(reply::not_found(Reason::OwnService));
        };
        let content = read_small(&mut found)?;
        let size = found.stamp.size;
        let mut response = self.send(StatusCode::NOT_FOUND, &found, content, 0..size, asked)?;
        self.vary(&mut response);
        Ok(response)
    }

    /// Returns a response with some bytes of a file, without validators.
    fn send(
        &self,
        status: StatusCode,
        found: &Found,
        content: Option<Bytes>,
        range: std::ops::Range<u64>,
        asked: &Asked,
    ) -> io::Result<Response> {
        let mut response = own(status);
        insert(&mut response, CONTENT_LENGTH, &(range.end - range.start).to_string());
        insert(&mut response, CONTENT_TYPE, &media_type(&found.path));
        response.headers_mut().insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if let Some(coding) = found.coding {
            response
                .headers_mut()
                .insert(CONTENT_ENCODING, HeaderValue::from_static(coding::names(coding).0));
        }
        if asked.method != Method::HEAD {
            response.body = match content {
                Some(content) => {
                    let at = |offset: u64| usize::try_from(offset).unwrap_or(content.len());
                    Body::full(content.slice(at(range.start)..at(range.end)))
                }
                None => Body::of_frames(FileBody::new(
                    found.file.try_clone()?,
                    found.stamp,
                    range,
                    self.reader.clone(),
                )),
            };
        }
        Ok(response)
    }

    fn cache_control(&self, path: &RelativePath) -> Option<&HeaderValue> {
        let path = [b"/", path.as_bytes()].concat();
        let is_for = |(patterns, _): &&(Vec<String>, _)| patterns.iter().any(|one| matches(one, &path));
        match self.cache_rules.iter().find(is_for) {
            Some((_, value)) => value.as_ref(),
            None => self.cache_control.as_ref(),
        }
    }

    fn vary(&self, response: &mut Response) {
        if !self.codings.is_empty() {
            response.headers_mut().insert(VARY, HeaderValue::from(ACCEPT_ENCODING));
        }
    }
}

/// Opens a file, or its compressed sibling.
fn open(root: &Root, path: Option<&RelativePath>, wanted: &[Precompression]) -> io::Result<Option<Found>> {
    let Some(path) = path else { return Ok(None) };
    match root.entry(path)? {
        Entry::File(file, stamp) => {
            compressed(root, Found { path: path.clone(), file, stamp, coding: None }, wanted).map(Some)
        }
        Entry::Directory | Entry::Nothing => Ok(None),
    }
}

/// Returns the first of the wanted siblings that exists, or else the file.
fn compressed(root: &Root, plain: Found, wanted: &[Precompression]) -> io::Result<Found> {
    for coding in wanted {
        if let Entry::File(file, stamp) = root.entry(&plain.path.with_suffix(coding::names(*coding).1))? {
            return Ok(Found { path: plain.path, file, stamp, coding: Some(*coding) });
        }
    }
    Ok(plain)
}

/// Reads a small file; `None` for others. What was read is the file, whatever its size was before.
fn read_small(found: &mut Found) -> io::Result<Option<Bytes>> {
    if found.stamp.size > SMALL {
        return Ok(None);
    }
    let mut content = Vec::with_capacity(usize::try_from(found.stamp.size).unwrap_or(0));
    (&mut found.file).take(SMALL + 1).read_to_end(&mut content)?;
    if content.len() as u64 > SMALL {
        return Err(io::Error::other("the file has grown while it was read"));
    }
    found.stamp.size = content.len() as u64;
    Ok(Some(content.into()))
}

/// Returns a strong entity tag: of the content if that is known, or else of size and modification time.
fn tag(found: &Found, content: Option<&Bytes>) -> String {
    if let Some(content) = content {
        let hash = digest(&SHA256, content);
        return format!("\"{}\"", URL_SAFE_NO_PAD.encode(&hash.as_ref()[..16]));
    }
    let Stamp { size, seconds, nanoseconds } = found.stamp;
    let coding = found.coding.map_or("", |coding| coding::names(coding).1);
    format!("\"{size:x}-{seconds:x}-{nanoseconds:x}{coding}\"")
}

/// Returns the media type for the extension of a name.
fn media_type(path: &RelativePath) -> String {
    let media = mime_guess::from_path(path.as_path()).first_raw().unwrap_or("application/octet-stream");
    if media.starts_with("text/") { format!("{media}; charset=utf-8") } else { media.to_owned() }
}

/// Returns the redirect to a directory. It is relative, so that it holds behind any prefix and cannot name
/// another host.
fn redirect(asked: &Asked) -> Response {
    let name = asked.path.rsplit('/').next().unwrap_or_default();
    let query = asked.query.as_deref().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = reply::empty(StatusCode::MOVED_PERMANENTLY, Reason::OwnService);
    insert(&mut response, LOCATION, &format!("./{name}/{query}"));
    response
}

fn own(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty()).because(Reason::OwnService);
    *response.status_mut() = status;
    response
}

/// Sets a field whose value has only visible characters, as all that are made here.
fn insert(response: &mut Response, name: http::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

fn path(option: &str, text: &str) -> Result<RelativePath, BuildError> {
    RelativePath::parse(text).ok_or_else(|| {
        BuildError::new(format!("static.{option}: invalid file `{text}`: expected a path below the root"))
    })
}

fn header(option: &str, text: &str) -> Result<Option<HeaderValue>, BuildError> {
    let value = HeaderValue::from_str(text).map_err(|_| {
        BuildError::new(format!("static.{option}: invalid value `{text}`: expected visible characters"))
    })?;
    Ok((!text.is_empty()).then_some(value))
}
