//! From options to something that runs: what a middleware may ask for while it is built.

use std::any::{Any, TypeId};
use std::convert::Infallible;
use std::sync::Arc;

pub use crate::client_tls::ClientTls;
use crate::reference::{Visit, VisitMut};
use crate::store::{SharedStore, StoreOptions};
use crate::{Access, BoxFuture, Clock, Handler, Middleware, Request, Response, UpstreamError};

/// Why something could not be built: everything that is wrong with it. The texts are for the person who wrote the
/// configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .messages.join("; "))]
pub struct BuildError {
    messages: Vec<String>,
}

impl BuildError {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self { messages: vec![text.into()] }
    }

    /// An error with these texts, one for each mistake.
    pub fn of(messages: impl Into<Vec<String>>) -> Self {
        Self { messages: messages.into() }
    }

    /// What is wrong, one by one.
    pub fn messages(&self) -> &[String] {
        &self.messages
    }

    /// The same with other texts, such as the option that they are about.
    #[must_use]
    pub fn map(self, text: impl Fn(String) -> String) -> Self {
        Self { messages: self.messages.into_iter().map(text).collect() }
    }
}

/// Maximum number of errors of one object that are reported.
const MAX_ERRORS: usize = 20;

/// Collects everything that is wrong with an object, so that one correction does not uncover the next mistake.
#[derive(Debug, Default)]
pub struct BuildErrors {
    messages: Vec<String>,
    more: usize,
}

impl BuildErrors {
    /// What was made; errors are kept.
    pub fn check<T>(&mut self, made: Result<T, BuildError>) -> Option<T> {
        made.map_err(|error| error.messages.into_iter().for_each(|message| self.add(message))).ok()
    }

    /// What was made, in order; or everything that is wrong.
    pub fn collect<T>(made: impl IntoIterator<Item = Result<T, BuildError>>) -> Result<Vec<T>, BuildError> {
        let mut errors = Self::default();
        let made = made.into_iter().filter_map(|made| errors.check(made)).collect();
        errors.finish().map(|()| made)
    }

    /// Both; or everything that is wrong with either.
    pub fn both<A, B>(
        one: Result<A, BuildError>,
        other: Result<B, BuildError>,
    ) -> Result<(A, B), BuildError> {
        let mut errors = Self::default();
        let both = errors.check(one).zip(errors.check(other));
        errors.made(both)
    }

    /// Adds an error, unless it is known.
    pub fn add(&mut self, message: String) {
        match () {
            () if self.messages.contains(&message) => {}
            () if self.messages.len() < MAX_ERRORS => self.messages.push(message),
            () => self.more += 1,
        }
    }

    /// The errors so far, one by one.
    pub fn messages(&self) -> &[String] {
        &self.messages
    }

    /// What was made of checked parts, when there is no error.
    pub fn made<T>(self, made: Option<T>) -> Result<T, BuildError> {
        self.finish()?;
        made.ok_or_else(|| BuildError::new("a part is missing"))
    }

    /// All errors in one, when there is any.
    pub fn finish(self) -> Result<(), BuildError> {
        let Self { mut messages, more } = self;
        if more > 0 {
            messages.push(format!("and {more} more"));
        }
        if messages.is_empty() { Ok(()) } else { Err(BuildError { messages }) }
    }
}

/// Options that can be turned into a middleware.
pub trait Build {
    /// True when each router must have an instance of its own (Traefik's rule for limits and breakers); false when
    /// all routers that name the middleware share one.
    const PER_ROUTER: bool = false;

    /// Shows the names of the middlewares and services that the options refer to. [`references!`](crate::references)
    /// makes this and the next method from one list.
    fn references(&self, _visit: &mut Visit<'_>) {}

    /// The same, to be changed.
    fn references_mut(&mut self, _visit: &mut VisitMut<'_>) {}

    /// Checks the options and prepares what each request needs: expressions are compiled and files read here.
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError>;

    /// How the middleware decides who may pass, for kinds that do that and nothing else.
    fn access(&self, _context: &BuildContext<'_>) -> Option<Access> {
        None
    }
}

/// What building can reach: other objects of the same configuration, files, an HTTP client, a shared store.
pub trait Resolver {
    /// The service of this qualified name.
    fn service(&self, name: &str) -> Result<Arc<dyn Handler>, BuildError>;
    /// The middleware of this qualified name.
    fn middleware(&self, name: &str) -> Result<Arc<dyn Middleware>, BuildError>;
    /// How the middleware of this qualified name decides who may pass, when it does that and nothing else.
    fn access(&self, name: &str) -> Option<Access>;
    /// The content of a file, which is watched from now on: when it changes, the middleware is built again.
    fn file(&self, path: &str) -> Result<Vec<u8>, BuildError>;
    /// A client for requests that the gateway makes itself.
    fn client(&self) -> Arc<dyn HttpClient>;
    /// A store that other gateways count in too. Equal options give the same one; nothing is connected yet.
    fn store(&self, options: &StoreOptions) -> Result<Arc<dyn SharedStore>, BuildError>;
    /// The time.
    fn clock(&self) -> Clock;
    /// The state with this key, when the object had it in the previous configuration or has asked for it already. It is
    /// kept for the next configuration.
    fn state(&self, key: &StateKey) -> Option<State>;
    /// Keeps new state for the next configuration.
    fn keep_state(&self, key: StateKey, state: State);
    /// A task that begins when the configuration serves, unless it was dropped before. `label` is for the log.
    fn spawn(&self, label: String, future: BoxFuture<'static, ()>) -> Task;
}

/// A task that ends when this is dropped.
#[must_use = "the task ends when this is dropped"]
pub struct Task {
    _end: Box<dyn Any + Send + Sync>,
}

impl Task {
    /// A task that ends when `end` is dropped.
    pub fn new(end: impl Any + Send + Sync) -> Self {
        Self { _end: Box::new(end) }
    }
}

/// State of an object, whatever it is.
pub type State = Arc<dyn Any + Send + Sync>;

/// Which state of which object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StateKey {
    /// Kind of the object (`rateLimit`).
    pub kind: String,
    /// Qualified name of the object.
    pub object: String,
    /// Name of the router, for kinds that have an instance for each router; else empty.
    pub router: String,
    /// What the object itself calls the state.
    pub name: String,
    /// Type of the state.
    pub type_id: TypeId,
}

/// The surroundings of one object that is being built.
pub struct BuildContext<'a> {
    /// Qualified name of the object: `name@provider`.
    pub name: &'a str,
    kind: &'a str,
    router: &'a str,
    resolver: &'a dyn Resolver,
}

impl<'a> BuildContext<'a> {
    /// Surroundings for the object called `name`.
    pub fn new(name: &'a str, resolver: &'a dyn Resolver) -> Self {
        Self { name, kind: "", router: "", resolver }
    }

    /// The same for an object of this kind, and for the router whose instance it is (empty when all routers share it).
    /// State is found again by both.
    #[must_use]
    pub fn instance(self, kind: &'a str, router: &'a str) -> Self {
        Self { kind, router, ..self }
    }

    /// The name of the provider that defined the object.
    pub fn provider(&self) -> &'a str {
        self.name.rsplit_once('@').map_or("", |(_, provider)| provider)
    }

    /// The service of this name, which is qualified like all names in options that are built.
    pub fn service(&self, name: &str) -> Result<Arc<dyn Handler>, BuildError> {
        self.resolver.service(name)
    }

    /// The middleware of this name.
    pub fn middleware(&self, name: &str) -> Result<Arc<dyn Middleware>, BuildError> {
        self.resolver.middleware(name)
    }

    /// How the middleware called `name` decides who may pass, when it does that and nothing else. Only for middlewares
    /// that could be built.
    pub fn access(&self, name: &str) -> Option<Access> {
        self.resolver.access(name)
    }

    /// The content of a file, which is watched from now on.
    pub fn file(&self, path: &str) -> Result<Vec<u8>, BuildError> {
        self.resolver.file(path)
    }

    /// A client for requests that the gateway makes itself.
    pub fn client(&self) -> Arc<dyn HttpClient> {
        self.resolver.client()
    }

    /// A store that other gateways count in too.
    pub fn store(&self, options: &StoreOptions) -> Result<Arc<dyn SharedStore>, BuildError> {
        self.resolver.store(options)
    }

    /// The clock by which the object decides, so that tests can move it.
    pub fn clock(&self) -> Clock {
        self.resolver.clock()
    }

    /// State of this object that outlives changes of its options: the same one as in the previous configuration, or
    /// else what `init` makes. A cache keeps its entries when its size changes.
    ///
    /// It is found again by kind and qualified name of the object (and its router, for kinds with an instance for
    /// each), by `key` and by type. It is dropped when neither the current configuration nor a request uses it any
    /// more.
    ///
    /// Building must not change what it gets: the configuration may be checked only, or thrown away, while requests use
    /// the state. Whatever follows from the options belongs in the middleware.
    pub fn state<T: Any + Send + Sync>(&self, key: &str, init: impl FnOnce() -> T) -> Arc<T> {
        match self.try_state(key, || Ok::<_, Infallible>(init())) {
            Ok(state) => state,
            Err(never) => match never {},
        }
    }

    /// A task that works for this object, such as one that fetches keys. The object holds what is returned: the task
    /// ends when the object is dropped, that is when it was replaced or removed and no request uses it any more.
    ///
    /// It begins once the configuration serves, and never when that is checked only. It must not hold the object, which
    /// would then never be dropped: what both use is shared between them.
    pub fn spawn(&self, name: &str, future: impl Future<Output = ()> + Send + 'static) -> Task {
        self.resolver.spawn(format!("{name} of {} {}", self.kind, self.name), Box::pin(future))
    }

    /// The same as [`Self::state`] where making the state can fail.
    pub fn try_state<T: Any + Send + Sync, E>(
        &self,
        key: &str,
        init: impl FnOnce() -> Result<T, E>,
    ) -> Result<Arc<T>, E> {
        let key = StateKey {
            kind: self.kind.to_owned(),
            object: self.name.to_owned(),
            router: self.router.to_owned(),
            name: key.to_owned(),
            type_id: TypeId::of::<T>(),
        };
        // The key has the type, so it is never another one.
        if let Some(Ok(known)) = self.resolver.state(&key).map(Arc::downcast) {
            return Ok(known);
        }
        let state = Arc::new(init()?);
        self.resolver.keep_state(key, state.clone());
        Ok(state)
    }
}

/// Sends requests that the gateway makes itself (forwardAuth, health checks). Redirects are not followed.
pub trait HttpClient: Send + Sync {
    /// Sends a request whose URI is absolute, under the TLS options given, and waits at most `timeout` for the head
    /// of the answer.
    fn send(
        &self,
        request: Request,
        tls: &ClientTls,
        timeout: std::time::Duration,
    ) -> BoxFuture<'_, Result<Response, UpstreamError>>;
}
