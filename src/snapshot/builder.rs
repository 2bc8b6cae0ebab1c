//! Builds each object of a configuration once and reuses unchanged instances of the previous snapshot.
//!
//! The builder records what an instance requests while it is built: files, other instances, state, tasks. The
//! next snapshot reuses the instance if its options and everything it requested are unchanged.

mod counters;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use tidegate_config::{Config, Kind, Object, ObjectRef};
use tidegate_core::building::{State as ObjectState, StateKey};
use tidegate_core::{BuildError, Middleware, RequestCounters};

use super::consumers::Publication;
use super::diagnostics::{Broken, Diagnostics};
use super::files::Content;
use super::tasks::{Slot, Tasks};
use super::{Effects, Environment, files};
use crate::observability::metrics::{CarryingObject, CountedObject};
use crate::service::Service;
use crate::upstream::Transport;
use crate::{service, store, tcp, udp};
use tidegate_core::traffic::TrafficCounters;

/// A kind of object that others refer to, built once for all of them or once per router.
pub(super) trait Component: Object {
    /// The type that the options are built into.
    type Instance: ?Sized + 'static;

    /// Which router the objects referenced by this one are built for.
    const SCOPE: Scope;

    /// Returns the instances of this kind.
    fn pool(instances: &Instances) -> &Pool<Self::Instance>;

    /// Returns the instances of this kind, mutably.
    fn pool_mut(instances: &mut Instances) -> &mut Pool<Self::Instance>;

    /// Returns the error for an unknown name, in Traefik's words.
    fn missing(name: &str) -> String;

    /// Builds an instance. Objects requested from `builder` become its dependencies.
    fn build(&self, builder: &Builder<'_>, name: &str) -> Result<Arc<Self::Instance>, BuildError>;

    /// Builds an instance provided by the gateway itself, if the name is reserved for one.
    fn built_in(_builder: &Builder<'_>, _name: &str) -> Option<Result<Arc<Self::Instance>, BuildError>> {
        None
    }

    /// Returns true if each router needs a separate instance.
    fn is_per_router(&self) -> bool {
        false
    }
}

/// Which router the objects referenced by a component are built for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The router that the component itself is built for. If one of these objects is built per router, so is
    /// the component.
    Router,
    /// None: the component takes the place of a router and does not share these instances.
    Own,
}

/// An instance, and what it was built from.
pub(super) struct Built<T: ?Sized> {
    pub(super) value: Arc<T>,
    pub(super) id: u64,
    pub(super) dependencies: Arc<[Dependency]>,
    /// Problems of the options that do not prevent the instance from serving.
    pub(super) warnings: Arc<[String]>,
}

impl<T: ?Sized> Built<T> {
    /// Returns a new instance without dependencies or warnings.
    pub(super) fn new(value: Arc<T>) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { value, id, dependencies: Arc::new([]), warnings: Arc::new([]) }
    }
}

impl<T: ?Sized> Clone for Built<T> {
    fn clone(&self) -> Self {
        let Self { value, id, dependencies, warnings } = self;
        Self { value: value.clone(), id: *id, dependencies: dependencies.clone(), warnings: warnings.clone() }
    }
}

/// Something that an instance requested while it was built.
#[derive(Clone)]
pub(super) enum Dependency {
    /// A file, with the content it had.
    File(String, Content),
    /// An instance.
    Instance {
        /// Qualified name of the object.
        name: String,
        /// Identity of that instance.
        id: u64,
        /// Returns the instance of this name in the snapshot being built.
        current: fn(&Builder<'_>, &str) -> Option<u64>,
    },
    /// State; its value does not matter.
    State(StateKey),
    /// A task.
    Task(Weak<Slot>),
}

/// Name of an object and of its router, which is empty if all routers share the instance.
pub(super) type InstanceKey = (String, String);

/// An instance, or why it could not be built.
pub(super) type BuildResult<T> = Result<Built<T>, BuildError>;

/// The instances of one kind.
pub(super) struct Pool<T: ?Sized>(HashMap<InstanceKey, BuildResult<T>>);

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: ?Sized> Pool<T> {
    /// Returns the result for a key.
    pub(super) fn get(&self, key: &InstanceKey) -> Option<&BuildResult<T>> {
        self.0.get(key)
    }

    /// Adds a result.
    pub(super) fn insert(&mut self, key: InstanceKey, outcome: BuildResult<T>) {
        self.0.insert(key, outcome);
    }

    /// Returns the names of all requested objects.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.0.keys().map(|(name, _)| name.clone()).collect()
    }

    /// Keeps only the instances of these objects.
    pub(super) fn retain(&mut self, names: &BTreeSet<String>) {
        self.0.retain(|(name, _), _| names.contains(name));
    }

    /// Returns the instances, without those that could not be built.
    pub(super) fn instances(&self) -> impl Iterator<Item = (&InstanceKey, &Arc<T>)> {
        self.0.iter().filter_map(|(key, outcome)| Some((key, &outcome.as_ref().ok()?.value)))
    }

    /// Returns the instances by name, without those that could not be built.
    pub(super) fn built(&self) -> BTreeMap<String, Arc<T>> {
        let instance = |((name, _), outcome): (&InstanceKey, &BuildResult<T>)| {
            Some((name.clone(), outcome.as_ref().ok()?.value.clone()))
        };
        self.0.iter().filter_map(instance).collect()
    }
}

/// Everything that was built, for the next snapshot to reuse.
#[derive(Default)]
pub(super) struct Instances {
    pub(super) middlewares: Pool<dyn Middleware>,
    pub(super) services: Pool<dyn Service>,
    pub(super) transports: Pool<Transport>,
    pub(super) tcp_middlewares: Pool<dyn tcp::Middleware>,
    pub(super) tcp_services: Pool<dyn tcp::Service>,
    pub(super) tcp_transports: Pool<tcp::Transport>,
    pub(super) udp_services: Pool<udp::Service>,
    /// State of middlewares that outlives changes of their options.
    pub(super) states: HashMap<StateKey, ObjectState>,
    /// Counters of routers and services.
    pub(super) counters: BTreeMap<CountedObject, Arc<RequestCounters>>,
    /// Counters of TCP and UDP routers, services and servers.
    pub(super) traffic: BTreeMap<CarryingObject, Arc<TrafficCounters>>,
}

/// Builds the objects of one configuration.
pub(super) struct Builder<'a> {
    pub(super) config: &'a Config,
    pub(super) environment: &'a Environment,
    /// HTTP services that are not live yet.
    pub(super) http: service::Draft,
    /// TCP and UDP services that are not live yet.
    pub(super) tcp: tcp::Draft,
    /// Files that the configuration names.
    pub(super) files: files::Draft,
    pub(super) stores: store::Draft,
    previous: Option<(&'a Config, &'a Instances)>,
    broken: &'a Broken,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    now: Instances,
    diagnostics: Diagnostics,
    /// The objects being built, outermost first.
    frames: Vec<Frame>,
    /// The router that instances are built for, for kinds that are built per router.
    router: String,
    /// The services with servers that were built, if metrics distinguish servers.
    balanced: BTreeSet<String>,
    /// Number of servers with counters that the next snapshot no longer has.
    leaving: usize,
    /// Tasks of middlewares that are used.
    tasks: Vec<Weak<Slot>>,
    /// True while building objects that no router uses: their tasks are not started.
    unused: bool,
}

/// An instance being built.
#[derive(Default)]
struct Frame {
    /// Kind and name: `middleware:x@file`.
    label: String,
    dependencies: Vec<Dependency>,
    /// True if each router needs a separate instance.
    per_router: bool,
    warnings: Vec<String>,
}

impl<'a> Builder<'a> {
    /// Returns a builder. `broken` are the objects whose options could not be decoded, with the reasons.
    pub(super) fn new(
        config: &'a Config,
        environment: &'a Environment,
        previous: Option<(&'a Config, &'a Instances)>,
        broken: &'a Broken,
    ) -> Self {
        let http = service::Draft::new(environment.registry.clone());
        let tcp = tcp::Draft::new(environment.tcp.clone());
        let (files, stores) = (environment.files.draft(), environment.stores.draft());
        Self { config, environment, http, tcp, files, stores, previous, broken, state: RefCell::default() }
    }

    /// Returns the instances, the diagnostics, and the effects to apply once the instances are live.
    pub(super) fn finish(self, consumers: Publication) -> (Instances, Diagnostics, Effects) {
        let mut state = self.state.into_inner();
        if let Some((_, before)) = self.previous {
            state.now.keep_counters(before, &state.balanced);
        }
        let effects = Effects {
            http: self.http.finish(),
            tcp: self.tcp.finish(),
            files: self.files.finish(),
            stores: self.stores.finish(),
            consumers,
            tasks: Tasks::new(self.environment.control.clone(), state.tasks),
        };
        (state.now, state.diagnostics, effects)
    }

    /// Records that a router uses a service and middlewares, whether they exist or not.
    pub(super) fn note_uses<S: Component, M: Component>(
        &self,
        router: &str,
        service: &str,
        middlewares: &[String],
    ) {
        let diagnostics = &mut self.state.borrow_mut().diagnostics;
        if !service.is_empty() {
            diagnostics.note_use(S::KIND, service, router);
        }
        for middleware in middlewares {
            diagnostics.note_use(M::KIND, middleware, router);
        }
    }

    /// Returns the content of a file and has the file watched.
    pub(super) fn file(&self, path: &str) -> Result<Vec<u8>, BuildError> {
        let content = self.files.content(path);
        self.depend(Dependency::File(path.to_owned(), content.clone()));
        content.map(|bytes| bytes.to_vec()).map_err(|error| BuildError::new(error.to_string()))
    }

    /// Returns why the options of an object could not be decoded, if so.
    pub(super) fn broken(&self, kind: Kind, name: &str) -> Option<&'a [String]> {
        if self.broken.is_empty() {
            return None;
        }
        self.broken.get(&ObjectRef { kind, name: name.to_owned() }).map(Vec::as_slice)
    }

    /// Returns the instance with this qualified name, for the current router.
    pub(super) fn instance<T: Component>(&self, name: &str) -> Result<Arc<T::Instance>, BuildError> {
        self.built::<T>(name).map(|built| built.value)
    }

    /// Returns the instance with this qualified name, for the given router.
    pub(super) fn instance_for<T: Component>(
        &self,
        name: &str,
        router: &str,
    ) -> Result<Arc<T::Instance>, BuildError> {
        let before = std::mem::replace(&mut self.state.borrow_mut().router, router.to_owned());
        let outcome = self.instance::<T>(name);
        self.state.borrow_mut().router = before;
        outcome
    }

    /// Records warnings about the object being built.
    pub(super) fn warn(&self, warnings: impl IntoIterator<Item = String>) {
        if let Some(frame) = self.state.borrow_mut().frames.last_mut() {
            frame.warnings.extend(warnings);
        }
    }

    /// Builds the objects of a kind that no router uses, to report their errors. Their tasks are not started.
    pub(super) fn build_unused<T: Component>(&self) {
        self.state.borrow_mut().unused = true;
        let used = T::pool(&self.state.borrow().now).names();
        for name in T::map(self.config).keys().filter(|name| !used.contains(*name)) {
            // The diagnostics have the result.
            let _ = self.instance_for::<T>(name, "");
        }
    }

    /// Builds unused services to report their errors, and drops them: their servers are not contacted.
    pub(super) fn check_unused<T: Component>(&self, drop_effects: impl Fn(&BTreeSet<String>)) {
        let used = T::pool(&self.state.borrow().now).names();
        self.build_unused::<T>();
        T::pool_mut(&mut self.state.borrow_mut().now).retain(&used);
        drop_effects(&used);
    }

    /// Returns the state of an object, in this snapshot or the previous one.
    pub(super) fn known_state(&self, key: &StateKey) -> Option<ObjectState> {
        let known = self.state.borrow().now.states.get(key).cloned();
        known.or_else(|| self.previous?.1.states.get(key).cloned())
    }

    /// Keeps the state of an object for the next snapshot.
    pub(super) fn keep_state(&self, key: StateKey, state: ObjectState) {
        self.depend(Dependency::State(key.clone()));
        self.state.borrow_mut().now.states.insert(key, state);
    }

    /// Records a task of the object being built.
    pub(super) fn note_task(&self, slot: Weak<Slot>) {
        self.depend(Dependency::Task(slot.clone()));
        let mut state = self.state.borrow_mut();
        if !state.unused {
            state.tasks.push(slot);
        }
    }

    /// Returns the router that the current object is built for.
    pub(super) fn router(&self) -> String {
        self.state.borrow().router.clone()
    }

    fn built<T: Component>(&self, name: &str) -> BuildResult<T::Instance> {
        let shared = (name.to_owned(), String::new());
        let own = (name.to_owned(), self.router());
        for key in [&shared, &own] {
            let known = T::pool(&self.state.borrow().now).get(key).cloned();
            if let Some(outcome) = known {
                return self.depend_on::<T>(key, outcome);
            }
        }
        self.enter(T::KIND, name)?;
        let outer = (T::SCOPE == Scope::Own).then(|| {
            let here = format!("{} {name}", T::KIND);
            std::mem::replace(&mut self.state.borrow_mut().router, here)
        });
        let made = self.reuse::<T>(&shared, &own).map_or_else(|| self.build::<T>(name), Ok);
        if let Some(outer) = outer {
            self.state.borrow_mut().router = outer;
        }
        let (outcome, per_router) = self.leave::<T>(name, made);
        if outcome.is_err() {
            self.keep_states_if_broken::<T>(&own);
        }
        let key = if per_router && T::SCOPE == Scope::Router { own } else { shared };
        T::pool_mut(&mut self.state.borrow_mut().now).insert(key.clone(), outcome.clone());
        self.depend_on::<T>(&key, outcome)
    }

    fn build<T: Component>(&self, name: &str) -> BuildResult<T::Instance> {
        if let Some(reasons) = self.broken(T::KIND, name) {
            return Err(BuildError::of(reasons));
        }
        if let Some(made) = T::built_in(self, name) {
            return made.map(Built::new);
        }
        let options = T::map(self.config).get(name);
        let options = options.ok_or_else(|| BuildError::new(T::missing(name)))?;
        if options.is_per_router() {
            self.need_router();
        }
        options.build(self, name).map(Built::new)
    }

    /// Returns the instance of the previous snapshot if rebuilding it would give an equal one.
    fn reuse<T: Component>(&self, shared: &InstanceKey, own: &InstanceKey) -> Option<Built<T::Instance>> {
        let (config, instances) = self.previous?;
        let name = &shared.0;
        let options = T::map(self.config).get(name);
        if self.broken(T::KIND, name).is_some() || T::map(config).get(name) != options {
            return None;
        }
        let pool = T::pool(instances);
        let built = pool.get(own).or_else(|| pool.get(shared))?.as_ref().ok()?;
        if options.is_some_and(|options| options.is_per_router()) {
            self.need_router();
        }
        if !self.is_current(&built.dependencies) {
            return None;
        }
        for dependency in &*built.dependencies {
            match dependency {
                Dependency::State(key) => {
                    if let Some(state) = self.known_state(key) {
                        self.keep_state(key.clone(), state);
                    }
                }
                Dependency::Task(slot) => self.note_task(slot.clone()),
                Dependency::File(..) | Dependency::Instance { .. } => {}
            }
        }
        self.warn(built.warnings.iter().cloned());
        Some(built.clone())
    }

    /// Returns true if all dependencies are unchanged. Looking them up records them for the current object.
    fn is_current(&self, dependencies: &[Dependency]) -> bool {
        dependencies.iter().all(|dependency| match dependency {
            Dependency::File(path, content) => {
                let _ = self.file(path);
                self.files.content(path) == *content
            }
            Dependency::Instance { name, id, current } => current(self, name) == Some(*id),
            // An instance that is reused keeps its state and tasks.
            Dependency::State(_) | Dependency::Task(_) => true,
        })
    }

    /// Keeps the state of a broken object until its options are corrected.
    fn keep_states_if_broken<T: Component>(&self, (name, router): &InstanceKey) {
        let Some((_, previous)) = self.previous else { return };
        if T::KIND != Kind::Middleware
            || !T::map(self.config).contains_key(name) && self.broken(T::KIND, name).is_none()
        {
            return;
        }
        let belongs =
            |key: &StateKey| key.object == *name && (key.router.is_empty() || key.router == *router);
        let kept = previous.states.iter().filter(|(key, _)| belongs(key));
        self.state.borrow_mut().now.states.extend(kept.map(|(key, state)| (key.clone(), state.clone())));
    }

    /// Starts building an object; fails if it is already being built.
    fn enter(&self, kind: Kind, name: &str) -> Result<(), BuildError> {
        let label = format!("{kind}:{name}");
        let frames = &mut self.state.borrow_mut().frames;
        if let Some(start) = frames.iter().position(|frame| frame.label == label) {
            let labels: Vec<&str> = frames[start..].iter().map(|frame| frame.label.as_str()).collect();
            let path = labels.join("->");
            return Err(BuildError::new(format!(
                "could not instantiate {kind} {name}: recursion detected in {path}->{label}"
            )));
        }
        frames.push(Frame { label, ..Frame::default() });
        Ok(())
    }

    /// Finishes what [`Self::enter`] started and records the diagnostics. Returns true if each router needs a
    /// separate instance.
    fn leave<T: Component>(
        &self,
        name: &str,
        made: BuildResult<T::Instance>,
    ) -> (BuildResult<T::Instance>, bool) {
        let mut state = self.state.borrow_mut();
        let Frame { dependencies, per_router, warnings, .. } = state.frames.pop().unwrap_or_default();
        match &made {
            Ok(_) => state.diagnostics.note_warnings(T::KIND, name, &warnings),
            Err(error) => state.diagnostics.note_error(T::KIND, name, error),
        }
        let (dependencies, warnings) = (dependencies.into(), warnings.into());
        (made.map(|built| Built { dependencies, warnings, ..built }), per_router)
    }

    /// Records that the object being built depends on an instance.
    fn depend_on<T: Component>(
        &self,
        key: &InstanceKey,
        outcome: BuildResult<T::Instance>,
    ) -> BuildResult<T::Instance> {
        let built = outcome?;
        let current = |builder: &Builder<'_>, name: &str| builder.built::<T>(name).ok().map(|built| built.id);
        self.depend(Dependency::Instance { name: key.0.clone(), id: built.id, current });
        if !key.1.is_empty() {
            self.need_router();
        }
        Ok(built)
    }

    fn depend(&self, dependency: Dependency) {
        if let Some(frame) = self.state.borrow_mut().frames.last_mut() {
            frame.dependencies.push(dependency);
        }
    }

    fn need_router(&self) {
        if let Some(frame) = self.state.borrow_mut().frames.last_mut() {
            frame.per_router = true;
        }
    }
}
