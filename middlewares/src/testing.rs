//! Runs one middleware against a test service.

#![allow(clippy::unwrap_used, reason = "tests")]

mod store;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tidegate_core::announced::PurgesHandle;
use tidegate_core::building::{State, StateKey, Task};
use tidegate_core::ldap::{LdapClient, LdapOptions};
use tidegate_core::reference::is_plain;
use tidegate_core::store::{SharedStore, StoreOptions};
use tidegate_core::*;

pub(crate) use store::FakeStore;

/// Returns a GET request from 127.0.0.1 for an absolute URL; the host becomes the `Host` header.
pub(crate) fn get(url: &str) -> Request {
    request(http::Request::get(url))
}

/// Returns a request from a builder whose URI is absolute; `https` marks it as received over TLS.
pub(crate) fn request(builder: http::request::Builder) -> Request {
    with_body(builder, "")
}

/// Returns the same with a body.
pub(crate) fn with_body(builder: http::request::Builder, body: impl Into<bytes::Bytes>) -> Request {
    let (mut head, ()) = builder.body(()).unwrap().into_parts();
    let uri = head.uri.clone();
    if let Some(authority) = uri.authority() {
        head.headers.entry("host").or_insert(authority.as_str().parse().unwrap());
    }
    head.uri = uri.path_and_query().map_or("/", |p| p.as_str()).parse().unwrap();
    let mut connection = Connection::plain(([127, 0, 0, 1], 4000).into());
    if uri.scheme_str() == Some("https") {
        connection.tls = Some(TlsInfo { version: "1.3", ..TlsInfo::default() });
    }
    Request::new(head, Body::full(body), Context::new(Arc::new(connection)))
}

/// The environment for `build`: services, files, and the client.
#[derive(Default)]
pub(crate) struct World {
    pub(crate) services: HashMap<String, Arc<dyn Handler>>,
    pub(crate) middlewares: HashMap<String, Arc<dyn Middleware>>,
    pub(crate) accesses: HashMap<String, Access>,
    pub(crate) files: HashMap<String, Vec<u8>>,
    pub(crate) client: Option<Arc<dyn HttpClient>>,
    pub(crate) store: Option<Arc<dyn SharedStore>>,
    /// The options that the store was requested with.
    pub(crate) store_options: Mutex<Option<StoreOptions>>,
    pub(crate) ldap: Option<Arc<dyn LdapClient>>,
    /// The options that the directory was requested with.
    pub(crate) ldap_options: Mutex<Option<LdapOptions>>,
    pub(crate) clock: Clock,
    pub(crate) consumers: ConsumersHandle,
    pub(crate) purges: PurgesHandle,
    /// Persistent state of middlewares.
    pub(crate) states: Mutex<HashMap<StateKey, State>>,
}

impl World {
    /// Returns an environment with a manual clock.
    pub(crate) fn stopped() -> (Self, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new());
        (Self { clock: Clock::Manual(clock.clone()), ..Self::default() }, clock)
    }
}

impl World {
    /// Replaces the directory by one with a consumer that has this credential, and a mistake if it `is_broken`.
    pub(crate) fn store_consumer(&self, kind: consumers::CredentialKind, is_broken: bool) {
        let consumer = Arc::new(Consumer { name: "acme@file".into(), ..Consumer::default() });
        let credentials = vec![consumers::Credential { path: String::new(), kind }];
        let entry = Arc::new(consumers::Entry { consumer, credentials, is_broken });
        self.consumers.store(Arc::new(Consumers::new(&[entry]).0));
    }

    /// Adds the middleware `name@file`.
    pub(crate) fn add(&mut self, name: &str, options: impl Build) {
        let name = format!("{name}@file");
        let options = qualified(options);
        let context = BuildContext::new(&name, self);
        let (built, access) = (options.build(&context).unwrap(), options.access(&context));
        self.accesses.extend(access.map(|access| (name.clone(), access)));
        self.middlewares.insert(name, built);
    }
}

impl Resolver for World {
    fn service(&self, name: &str) -> Result<Arc<dyn Handler>, BuildError> {
        self.services.get(name).cloned().ok_or_else(|| BuildError::new(format!("service {name} not found")))
    }
    fn middleware(&self, name: &str) -> Result<Arc<dyn Middleware>, BuildError> {
        self.middlewares
            .get(name)
            .cloned()
            .ok_or_else(|| BuildError::new(format!("middleware {name} not found")))
    }
    fn access(&self, name: &str) -> Option<Access> {
        self.accesses.get(name).cloned()
    }
    fn file(&self, path: &str) -> Result<Vec<u8>, BuildError> {
        self.files.get(path).cloned().ok_or_else(|| BuildError::new(format!("{path}: no such file")))
    }
    fn client(&self) -> Arc<dyn HttpClient> {
        self.client.clone().expect("the test has no client")
    }
    fn store(&self, options: &StoreOptions) -> Result<Arc<dyn SharedStore>, BuildError> {
        *self.store_options.lock().unwrap() = Some(options.clone());
        Ok(self.store.clone().expect("the test has no store"))
    }
    fn ldap(&self, options: &LdapOptions) -> Result<Arc<dyn LdapClient>, BuildError> {
        *self.ldap_options.lock().unwrap() = Some(options.clone());
        Ok(self.ldap.clone().expect("the test has no directory"))
    }
    fn consumers(&self) -> ConsumersHandle {
        self.consumers.clone()
    }
    fn announced_purges(&self) -> PurgesHandle {
        self.purges.clone()
    }

    fn clock(&self) -> Clock {
        self.clock.clone()
    }
    fn state(&self, key: &StateKey) -> Option<State> {
        self.states.lock().unwrap().get(key).cloned()
    }
    /// Tasks wait forever, as those of a configuration that does not take effect.
    fn spawn(&self, _: String, task: BoxFuture<'static, ()>) -> Task {
        Task::new(parking_lot::Mutex::new(task))
    }
    fn keep_state(&self, key: StateKey, state: State) {
        self.states.lock().unwrap().insert(key, state);
    }
}

/// Builds the middleware `m@file`. Unqualified names refer to the same provider, as after the merge.
pub(crate) fn build_in(world: &World, options: impl Build) -> Result<Arc<dyn Middleware>, BuildError> {
    qualified(options).build(&BuildContext::new("m@file", world))
}

fn qualified<T: Build>(mut options: T) -> T {
    options.references_mut(&mut |target, name| {
        if is_plain(target, name.name()) {
            name.qualify("file");
        }
    });
    options
}

/// Builds a middleware without dependencies.
pub(crate) fn build(options: impl Build) -> Arc<dyn Middleware> {
    build_in(&World::default(), options).unwrap()
}

/// A service backed by a closure.
#[derive(Clone)]
pub(crate) struct Service<F>(pub(crate) F);

impl<F> Handler for Service<F>
where
    F: Fn(Request) -> Response + Send + Sync + 'static,
{
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        let response = (self.0)(request);
        Box::pin(std::future::ready(response))
    }
}

/// Runs a built middleware in front of `service`.
pub(crate) async fn run(
    middleware: &Arc<dyn Middleware>,
    request: Request,
    service: &(impl Handler + Clone),
) -> Response {
    let end = Next::service(Arc::new(service.clone()));
    Next::new([middleware.clone()], end).run(request).await
}

/// Returns the request as the service receives it. Panics when it receives none.
pub(crate) fn request_after(options: impl Build, request: Request) -> Request {
    let seen = Arc::new(Mutex::new(None));
    let store = seen.clone();
    let service = Service(move |request| {
        *store.lock().unwrap() = Some(request);
        Response::new(Body::empty())
    });
    block_on(run(&build(options), request, &service));
    let request = seen.lock().unwrap().take();
    request.expect("the service was not called")
}

/// Returns the response when the service responds with `service`.
pub(crate) fn response_of<F>(options: impl Build, request: Request, service: F) -> Response
where
    F: Fn(Request) -> Response + Send + Sync + 'static,
{
    let service = Arc::new(service);
    block_on(run(&build(options), request, &Service(move |request| service(request))))
}

/// Blocks on a future in a new runtime.
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

/// Returns the whole body of a response as text.
pub(crate) fn text(response: Response) -> String {
    let bytes = block_on(response.into_body().collect(1 << 20)).unwrap().bytes;
    String::from_utf8_lossy(&bytes).into_owned()
}
