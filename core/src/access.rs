//! How middlewares that decide who may pass combine with others.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;

/// Describes a middleware that decides who may pass and does nothing else. `anyOf` accepts only such
/// middlewares. Where a request can bypass one (`anyOf`, `when`), the headers that only it may set are
/// removed.
#[derive(Clone, Default)]
pub struct Access {
    /// Whether it reads the request's body to decide.
    pub reads_body: bool,
    vouches: Vec<IsHeader>,
}

type IsHeader = Arc<dyn Fn(&HeaderName) -> bool + Send + Sync>;

impl Access {
    /// A decision based on the request's head.
    pub fn by_head() -> Self {
        Self::default()
    }

    /// Sets whether the middleware also reads the body to decide.
    #[must_use]
    pub fn reading_body(self, reads_body: bool) -> Self {
        Self { reads_body, ..self }
    }

    /// Adds the headers in which the middleware tells the service who the client is. Clients must not set
    /// headers for which `is_header` returns true.
    #[must_use]
    pub fn vouching(mut self, is_header: impl Fn(&HeaderName) -> bool + Send + Sync + 'static) -> Self {
        self.vouches.push(Arc::new(is_header));
        self
    }

    /// Combines the decisions of several middlewares.
    pub fn of_all(all: impl IntoIterator<Item = Self>) -> Self {
        let join = |mut joined: Self, one: Self| {
            joined.reads_body |= one.reads_body;
            joined.vouches.extend(one.vouches);
            joined
        };
        all.into_iter().fold(Self::default(), join)
    }

    /// Returns true for a header in which the middleware tells the service who the client is.
    pub fn vouches_for(&self, header: &HeaderName) -> bool {
        self.vouches.iter().any(|is_header| is_header(header))
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("reads_body", &self.reads_body).finish_non_exhaustive()
    }
}
