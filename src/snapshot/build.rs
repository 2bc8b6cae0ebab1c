//! Builds what a configuration names, each thing once, and takes over from the previous snapshot what has not changed.
//!
//! While something is built, what it asks for (files, services, middlewares, transports) is noted. It is taken over by
//! the next snapshot when its options are equal and everything it asked for is still the same instance.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use tidegate_config::{Config, Kind, ObjectRef};
use tidegate_core::building::{State as ObjectState, StateKey, Task};
use tidegate_core::store::{SharedStore, StoreOptions};
use tidegate_core::{
    Access, BoxFuture, BuildContext, BuildError, Clock, Handler, HttpClient, Middleware, Resolver,
};

use super::conditional::Conditional;
use super::files::Content;
use super::tasks::{self, Slot, Tasks};
use crate::router::Rule;
use crate::service::{self, Service};
use crate::snapshot::{Effects, Environment};
use crate::tcp;
use crate::upstream::Transport;

/// Something built, and what it was built from.
pub(super) struct Built<T: ?Sized> {
    pub(super) value: Arc<T>,
    id: u64,
    dependencies: Arc<[Dependency]>,
}

impl<T: ?Sized> Clone for Built<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), id: self.id, dependencies: self.dependencies.clone() }
    }
}

/// Something that was asked for, and which instance was given.
#[derive(Clone)]
enum Dependency {
    File(String, Content),
    Middleware(String, u64),
    Service(String, u64),
    Transport(String, u64),
    /// State that was asked for, whatever it was.
    State(StateKey),
    /// A task that was asked for.
    Task(Weak<Slot>),
}

/// Name of a middleware, and of the router it is for (empty when all routers share it).
type MiddlewareKey = (String, String);
type Outcome<T> = Result<Built<T>, BuildError>;

/// Everything that was built, for the next snapshot to take over.
#[derive(Default)]
pub(super) struct Instances {
    middlewares: HashMap<MiddlewareKey, Outcome<dyn Middleware>>,
    services: HashMap<String, Outcome<dyn Service>>,
    transports: HashMap<String, Outcome<Transport>>,
    /// State of middlewares that outlives changes of their options.
    states: HashMap<StateKey, ObjectState>,
    files: BTreeSet<String>,
}

impl Instances {
    /// True when a file was read while these were built.
    pub(super) fn names_file(&self, path: &str) -> bool {
        self.files.contains(path)
    }

    /// The services that could be built.
    pub(super) fn services(&self) -> BTreeMap<String, Arc<dyn Service>> {
        let built = self.services.iter();
        built
            .filter_map(|(name, outcome)| Some((name.clone(), outcome.as_ref().ok()?.value.clone())))
            .collect()
    }
}

/// Builds the objects of one configuration.
pub(super) struct Builder<'a> {
    pub(super) config: &'a Config,
    pub(super) environment: &'a Environment,
    /// Services with servers that are still to be put into service.
    pub(super) http: service::Draft,
    /// The same for TCP and UDP.
    pub(super) tcp: tcp::Draft,
    previous: Option<(&'a Config, &'a Instances)>,
    broken: &'a BTreeMap<ObjectRef, Vec<String>>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    now: Instances,
    failures: BTreeMap<ObjectRef, Vec<String>>,
    /// What is being built, outermost first: `middleware:x@file`.
    path: Vec<String>,
    /// What each of those has asked for.
    asked: Vec<Vec<Dependency>>,
    /// True for those that need an instance for each router.
    per_router: Vec<bool>,
    router: String,
    /// Tasks of what is used.
    tasks: Vec<Weak<Slot>>,
    /// True while things are built that nobody uses: their tasks do not begin.
    unused: bool,
}

impl<'a> Builder<'a> {
    /// A builder. `broken` are objects whose options could not be read, with the reasons.
    pub(super) fn new(
        config: &'a Config,
        environment: &'a Environment,
        previous: Option<(&'a Config, &'a Instances)>,
        broken: &'a BTreeMap<ObjectRef, Vec<String>>,
    ) -> Self {
        let (http, tcp) = (environment.registry.draft(), environment.tcp.draft());
        Self { config, environment, http, tcp, previous, broken, state: RefCell::default() }
    }

    /// What was built, what went wrong with which object, and what is to be done when it serves.
    pub(super) fn finish(self) -> (Instances, BTreeMap<ObjectRef, Vec<String>>, Effects) {
        let state = self.state.into_inner();
        let tasks = Tasks::new(self.environment.control.clone(), state.tasks);
        let effects = Effects { http: self.http.finish(), tcp: self.tcp.finish(), tasks };
        (state.now, state.failures, effects)
    }

    /// The content of a file, which is watched from now on.
    pub(super) fn file(&self, path: &str) -> Result<Vec<u8>, BuildError> {
        let content = self.environment.files.content(path);
        self.state.borrow_mut().now.files.insert(path.to_owned());
        self.ask(Dependency::File(path.to_owned(), content.clone()));
        content.map(|bytes| bytes.to_vec()).map_err(|error| BuildError::new(error.to_string()))
    }

    /// The middleware of this qualified name, for this router.
    pub(super) fn middleware_for(&self, name: &str, router: &str) -> Result<Arc<dyn Middleware>, BuildError> {
        let before = std::mem::replace(&mut self.state.borrow_mut().router, router.to_owned());
        let outcome = self.middleware_instance(name);
        self.state.borrow_mut().router = before;
        outcome.map(|built| built.value)
    }

    /// Builds the services, middlewares and transports that nobody has asked for, so that their mistakes are told.
    ///
    /// The services are let go again: nothing asks how their servers are. Tasks of middlewares do not begin.
    pub(super) fn build_unused(&self) {
        self.state.borrow_mut().unused = true;
        let asked_for: BTreeSet<String> = self.state.borrow().now.services.keys().cloned().collect();
        for name in self.config.http.services.keys().filter(|name| !asked_for.contains(*name)) {
            // The outcome is noted.
            let _ = self.service_named(name);
        }
        self.state.borrow_mut().now.services.retain(|name, _| asked_for.contains(name));
        self.http.retain(|name| asked_for.contains(name));
        let used: BTreeSet<String> =
            self.state.borrow().now.middlewares.keys().map(|(name, _)| name.clone()).collect();
        for name in self.config.http.middlewares.keys().filter(|name| !used.contains(*name)) {
            // The outcome is noted.
            let _ = self.middleware_for(name, "");
        }
        for name in self.config.http.servers_transports.keys() {
            let _ = self.transport_named(name);
        }
    }

    /// The service of this qualified name.
    pub(super) fn service_named(&self, name: &str) -> Result<Arc<dyn Service>, BuildError> {
        self.service_instance(name).map(|built| built.value)
    }

    /// The transport of this qualified name.
    pub(super) fn transport_named(&self, name: &str) -> Result<Arc<Transport>, BuildError> {
        let known = self.state.borrow().now.transports.get(name).cloned();
        let outcome = known.unwrap_or_else(|| {
            let outcome = self.build_transport(name);
            self.note(Kind::ServersTransport, name, &outcome);
            self.state.borrow_mut().now.transports.insert(name.to_owned(), outcome.clone());
            outcome
        });
        let built = outcome?;
        self.ask(Dependency::Transport(name.to_owned(), built.id));
        Ok(built.value)
    }

    fn middleware_instance(&self, name: &str) -> Outcome<dyn Middleware> {
        let shared = (name.to_owned(), String::new());
        let own = (name.to_owned(), self.state.borrow().router.clone());
        for key in [&shared, &own] {
            let known = self.state.borrow().now.middlewares.get(key).cloned();
            if let Some(outcome) = known {
                return self.asked_middleware(key, outcome);
            }
        }
        let (outcome, per_router) = match self.enter(Kind::Middleware, name) {
            Err(recursion) => return Err(recursion),
            Ok(()) => {
                let made =
                    self.reuse_middleware(&shared, &own).map_or_else(|| self.build_middleware(name), Ok);
                self.leave(made)
            }
        };
        self.note(Kind::Middleware, name, &outcome);
        if outcome.is_err() {
            self.keep_states_of_broken(&own);
        }
        let key = if per_router { own } else { shared };
        self.state.borrow_mut().now.middlewares.insert(key.clone(), outcome.clone());
        self.asked_middleware(&key, outcome)
    }

    fn asked_middleware(
        &self,
        key: &MiddlewareKey,
        outcome: Outcome<dyn Middleware>,
    ) -> Outcome<dyn Middleware> {
        let built = outcome?;
        self.ask(Dependency::Middleware(key.0.clone(), built.id));
        if !key.1.is_empty()
            && let Some(outer) = self.state.borrow_mut().per_router.last_mut()
        {
            *outer = true;
        }
        Ok(built)
    }

    fn reuse_middleware(&self, shared: &MiddlewareKey, own: &MiddlewareKey) -> Option<Built<dyn Middleware>> {
        let (config, instances) = self.previous?;
        let name = &shared.0;
        let options = self.config.http.middlewares.get(name)?;
        if self.is_broken(Kind::Middleware, name) || config.http.middlewares.get(name) != Some(options) {
            return None;
        }
        let built =
            instances.middlewares.get(own).or_else(|| instances.middlewares.get(shared))?.as_ref().ok()?;
        if options.options.is_per_router() {
            self.need_router();
        }
        if !self.is_current(&built.dependencies) {
            return None;
        }
        for dependency in &*built.dependencies {
            match dependency {
                Dependency::State(key) => {
                    // It is noted, and goes on to the next snapshot.
                    let _ = self.state(key);
                }
                Dependency::Task(slot) => self.note_task(slot.clone()),
                _ => {}
            }
        }
        Some(built.clone())
    }

    /// Keeps the state of a middleware that has a mistake, so that it is still there when that is corrected.
    fn keep_states_of_broken(&self, (name, router): &MiddlewareKey) {
        let Some((_, previous)) = self.previous else { return };
        if !self.config.http.middlewares.contains_key(name) && !self.is_broken(Kind::Middleware, name) {
            return;
        }
        let is_of = |key: &StateKey| key.object == *name && (key.router.is_empty() || key.router == *router);
        let kept = previous.states.iter().filter(|(key, _)| is_of(key));
        self.state.borrow_mut().now.states.extend(kept.map(|(key, state)| (key.clone(), state.clone())));
    }

    fn build_middleware(&self, name: &str) -> Outcome<dyn Middleware> {
        self.refuse_broken(Kind::Middleware, name)?;
        let Some(options) = self.config.http.middlewares.get(name) else {
            return Err(BuildError::new(format!("middleware \"{name}\" does not exist")));
        };
        let kind = options.options.kind();
        let router = if options.options.is_per_router() {
            self.need_router();
            self.state.borrow().router.clone()
        } else {
            String::new()
        };
        let condition = match options.when.as_str() {
            "" => None,
            text => Some(Rule::parse(text).map_err(|error| BuildError::new(format!("when: {error}")))?),
        };
        let context = BuildContext::new(name, self).instance(kind, &router);
        let built = options.options.build(&context)?;
        Ok(fresh(match condition {
            None => built,
            Some(condition) => Arc::new(Conditional::new(condition, built, options.options.access(&context))),
        }))
    }

    fn service_instance(&self, name: &str) -> Outcome<dyn Service> {
        let known = self.state.borrow().now.services.get(name).cloned();
        let outcome = match known {
            Some(outcome) => outcome,
            None => {
                self.enter(Kind::Service, name)?;
                // Middlewares before a service are instances of the service's own, whatever router comes first.
                let own = format!("service {name}");
                let router = std::mem::replace(&mut self.state.borrow_mut().router, own);
                let made = self.reuse_service(name).map_or_else(|| self.build_service(name).map(fresh), Ok);
                let (outcome, _) = self.leave(made);
                self.state.borrow_mut().router = router;
                self.note(Kind::Service, name, &outcome);
                self.state.borrow_mut().now.services.insert(name.to_owned(), outcome.clone());
                outcome
            }
        };
        let built = outcome?;
        self.ask(Dependency::Service(name.to_owned(), built.id));
        Ok(built)
    }

    fn build_service(&self, name: &str) -> Result<Arc<dyn Service>, BuildError> {
        self.refuse_broken(Kind::Service, name)?;
        super::services::build(self, name)
    }

    fn reuse_service(&self, name: &str) -> Option<Built<dyn Service>> {
        let (config, instances) = self.previous?;
        let options = self.config.http.services.get(name)?;
        if self.is_broken(Kind::Service, name) || config.http.services.get(name) != Some(options) {
            return None;
        }
        let built = instances.services.get(name)?.as_ref().ok()?;
        self.is_current(&built.dependencies).then(|| built.clone())
    }

    fn build_transport(&self, name: &str) -> Outcome<Transport> {
        self.state.borrow_mut().asked.push(Vec::new());
        self.state.borrow_mut().per_router.push(false);
        self.state.borrow_mut().path.push(format!("transport:{name}"));
        let made =
            self.reuse_transport(name).map_or_else(|| super::services::transport(self, name).map(fresh), Ok);
        self.leave(made).0
    }

    fn reuse_transport(&self, name: &str) -> Option<Built<Transport>> {
        let (config, instances) = self.previous?;
        let transports = |config: &'a Config| config.http.servers_transports.get(name);
        if self.is_broken(Kind::ServersTransport, name) || transports(config) != transports(self.config) {
            return None;
        }
        let built = instances.transports.get(name)?.as_ref().ok()?;
        self.is_current(&built.dependencies).then(|| built.clone())
    }

    /// True when asking again gives the same instances. Asking notes them as well.
    fn is_current(&self, dependencies: &[Dependency]) -> bool {
        dependencies.iter().all(|dependency| match dependency {
            Dependency::File(path, content) => {
                let _ = self.file(path);
                self.environment.files.content(path) == *content
            }
            Dependency::Middleware(name, id) => self.middleware_instance(name).is_ok_and(|built| built.id == *id),
            Dependency::Service(name, id) => self.service_instance(name).is_ok_and(|built| built.id == *id),
            Dependency::Transport(name, id) => {
                self.transport_named(name).is_ok()
                    && matches!(self.state.borrow().now.transports.get(name), Some(Ok(built)) if built.id == *id)
            }
            // The same instance has the same state.
            Dependency::State(_) | Dependency::Task(_) => true,
        })
    }

    /// Begins to build something, unless that is being built already.
    fn enter(&self, kind: Kind, name: &str) -> Result<(), BuildError> {
        let label = format!("{kind}:{name}");
        let mut state = self.state.borrow_mut();
        if let Some(start) = state.path.iter().position(|outer| *outer == label) {
            let loop_path = [&state.path[start..], &[label]].concat().join("->");
            return Err(BuildError::new(format!(
                "could not instantiate {kind} {name}: recursion detected in {loop_path}"
            )));
        }
        state.path.push(label);
        state.asked.push(Vec::new());
        state.per_router.push(false);
        Ok(())
    }

    /// Ends what [`Self::enter`] began.
    fn leave<T: ?Sized>(&self, made: Outcome<T>) -> (Outcome<T>, bool) {
        let mut state = self.state.borrow_mut();
        state.path.pop();
        let asked = state.asked.pop().unwrap_or_default();
        let per_router = state.per_router.pop().unwrap_or_default();
        (made.map(|built| Built { dependencies: asked.into(), ..built }), per_router)
    }

    fn ask(&self, dependency: Dependency) {
        if let Some(asked) = self.state.borrow_mut().asked.last_mut() {
            asked.push(dependency);
        }
    }

    fn note_task(&self, slot: Weak<Slot>) {
        self.ask(Dependency::Task(slot.clone()));
        let mut state = self.state.borrow_mut();
        if !state.unused {
            state.tasks.push(slot);
        }
    }

    fn need_router(&self) {
        if let Some(here) = self.state.borrow_mut().per_router.last_mut() {
            *here = true;
        }
    }

    fn is_broken(&self, kind: Kind, name: &str) -> bool {
        !self.broken.is_empty() && self.broken.contains_key(&ObjectRef { kind, name: name.to_owned() })
    }

    fn refuse_broken(&self, kind: Kind, name: &str) -> Result<(), BuildError> {
        match self.broken.get(&ObjectRef { kind, name: name.to_owned() }) {
            Some(reasons) => Err(BuildError::of(&reasons[..])),
            None => Ok(()),
        }
    }

    fn note<T: ?Sized>(&self, kind: Kind, name: &str, outcome: &Outcome<T>) {
        if let Err(error) = outcome {
            let object = ObjectRef { kind, name: name.to_owned() };
            let mut state = self.state.borrow_mut();
            let reasons = state.failures.entry(object).or_default();
            for message in error.messages() {
                if !reasons.contains(message) {
                    reasons.push(message.clone());
                }
            }
        }
    }
}

impl Resolver for Builder<'_> {
    fn service(&self, name: &str) -> Result<Arc<dyn Handler>, BuildError> {
        let service = self.service_named(name)?;
        Ok(service)
    }

    fn middleware(&self, name: &str) -> Result<Arc<dyn Middleware>, BuildError> {
        self.middleware_instance(name).map(|built| built.value)
    }

    fn access(&self, name: &str) -> Option<Access> {
        self.config.http.middlewares.get(name)?.options.access(&BuildContext::new(name, self))
    }

    fn file(&self, path: &str) -> Result<Vec<u8>, BuildError> {
        Self::file(self, path)
    }

    fn client(&self) -> Arc<dyn HttpClient> {
        self.environment.client.clone()
    }

    fn store(&self, options: &StoreOptions) -> Result<Arc<dyn SharedStore>, BuildError> {
        self.environment.stores.get(options)
    }

    fn clock(&self) -> Clock {
        self.environment.clock.clone()
    }

    fn state(&self, key: &StateKey) -> Option<ObjectState> {
        let known = self.state.borrow().now.states.get(key).cloned();
        let found = known.or_else(|| self.previous?.1.states.get(key).cloned())?;
        self.keep_state(key.clone(), found.clone());
        Some(found)
    }

    fn keep_state(&self, key: StateKey, state: ObjectState) {
        self.ask(Dependency::State(key.clone()));
        self.state.borrow_mut().now.states.insert(key, state);
    }

    fn spawn(&self, label: String, future: BoxFuture<'static, ()>) -> Task {
        let (task, slot) = tasks::prepare(label, future);
        self.note_task(slot);
        task
    }
}

fn fresh<T: ?Sized>(value: Arc<T>) -> Built<T> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    Built { value, id: NEXT.fetch_add(1, Ordering::Relaxed), dependencies: Arc::new([]) }
}
