//! How middlewares that decide who may pass combine with others.

use std::fmt;
use std::sync::Arc;

use http::{HeaderMap, HeaderName};

/// Describes a middleware that decides who may pass and does nothing else. `anyOf` accepts only such
/// middlewares. Where a request can bypass one (`anyOf`, `when`), the headers that only it may set are
/// removed.
#[derive(Clone, Default)]
pub struct Access {
    /// Whether it reads the request's body to decide.
    pub reads_body: bool,
    vouches: Vec<IsHeader>,
    conceals: Vec<Conceal>,
}

type IsHeader = Arc<dyn Fn(&HeaderName) -> bool + Send + Sync>;
type Conceal = Arc<dyn Fn(&mut HeaderMap) + Send + Sync>;

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

    /// Adds how the middleware removes credentials that services must not see, such as sessions and keys. It does so
    /// itself, and `conceal` is for requests that another member of `anyOf` admits.
    #[must_use]
    pub fn concealing(mut self, conceal: impl Fn(&mut HeaderMap) + Send + Sync + 'static) -> Self {
        self.conceals.push(Arc::new(conceal));
        self
    }

    /// Combines the decisions of several middlewares.
    pub fn of_all(all: impl IntoIterator<Item = Self>) -> Self {
        let join = |mut joined: Self, one: Self| {
            joined.reads_body |= one.reads_body;
            joined.vouches.extend(one.vouches);
            joined.conceals.extend(one.conceals);
            joined
        };
        all.into_iter().fold(Self::default(), join)
    }

    /// Removes the credentials for the middleware.
    pub fn conceal(&self, headers: &mut HeaderMap) {
        self.conceals.iter().for_each(|conceal| conceal(headers));
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
