//! How middlewares that decide who may pass are combined with others.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;

/// What is known of a middleware that decides who may pass, and does nothing else, beside the middleware itself: `anyOf`
/// takes only those, and where a request gets past one (`anyOf`, `when`), headers must go that only it may set.
#[derive(Clone, Default)]
pub struct Access {
    /// It reads the request's body to decide.
    pub reads_body: bool,
    vouches: Vec<IsHeader>,
}

type IsHeader = Arc<dyn Fn(&HeaderName) -> bool + Send + Sync>;

impl Access {
    /// A decision by the head of the request.
    pub fn by_head() -> Self {
        Self::default()
    }

    /// The same for a middleware that also reads the body to decide, if so.
    #[must_use]
    pub fn reading_body(self, reads_body: bool) -> Self {
        Self { reads_body, ..self }
    }

    /// The same for a middleware that tells the service who the client is in the headers for which `is_header` holds:
    /// the client must not set them itself.
    #[must_use]
    pub fn vouching(mut self, is_header: impl Fn(&HeaderName) -> bool + Send + Sync + 'static) -> Self {
        self.vouches.push(Arc::new(is_header));
        self
    }

    /// The decision of several, of which each has its say.
    pub fn of_all(all: impl IntoIterator<Item = Self>) -> Self {
        let join = |mut joined: Self, one: Self| {
            joined.reads_body |= one.reads_body;
            joined.vouches.extend(one.vouches);
            joined
        };
        all.into_iter().fold(Self::default(), join)
    }

    /// True for a header in which it tells the service who the client is.
    pub fn vouches_for(&self, header: &HeaderName) -> bool {
        self.vouches.iter().any(|is_header| is_header(header))
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("reads_body", &self.reads_body).finish_non_exhaustive()
    }
}
