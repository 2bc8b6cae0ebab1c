//! What a snapshot is built from: services, middlewares and transports of every protocol, each an implementation of
//! [`Component`]. The [`Builder`] does for all of them what does not depend on the kind.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use tidegate_config::Object;
use tidegate_core::building::{State, StateKey};
use tidegate_core::{BuildError, Middleware};

use super::builder::Builder;
use super::files::Content;
use super::tasks::Slot;
use crate::service::Service;
use crate::upstream::Transport;
use crate::{tcp, udp};

/// A kind of object that other objects name, and that is built once for all of them or once for each router.
pub(super) trait Component: Object {
    /// What the options are built into.
    type Instance: ?Sized + 'static;

    /// Which router the objects named by this one are built for.
    const SCOPE: Scope;

    /// The instances of this kind.
    fn pool(instances: &Instances) -> &Pool<Self::Instance>;

    /// The instances of this kind, to add to.
    fn pool_mut(instances: &mut Instances) -> &mut Pool<Self::Instance>;

    /// The error for a name that no object of this kind has. The words are Traefik's.
    fn missing(name: &str) -> String;

    /// Builds an instance. The other objects it needs come from `builder`, and become its dependencies.
    fn build(&self, builder: &Builder<'_>, name: &str) -> Result<Arc<Self::Instance>, BuildError>;

    /// Builds an instance that the gateway brings along, whatever the configuration says.
    fn built_in(_builder: &Builder<'_>, _name: &str) -> Option<Result<Arc<Self::Instance>, BuildError>> {
        None
    }

    /// Returns true when each router needs an instance of its own.
    fn is_per_router(&self) -> bool {
        false
    }
}

/// Which router the objects that a component names are built for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Scope {
    /// The router that the component itself is built for. The component gets an instance for each router when one of
    /// those objects has.
    Router,
    /// None: the component stands in for a router, and shares instances with no other.
    Own,
}

/// An instance, and what it was built from.
pub(super) struct Built<T: ?Sized> {
    pub(super) value: Arc<T>,
    pub(super) id: u64,
    pub(super) dependencies: Arc<[Dependency]>,
    /// What is wrong with the options although the instance serves.
    pub(super) warnings: Arc<[String]>,
}

impl<T: ?Sized> Built<T> {
    /// A new instance, of which nothing else is known yet.
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

/// Something that was asked for while an instance was built.
#[derive(Clone)]
pub(super) enum Dependency {
    /// A file, with the content it had.
    File(String, Content),
    /// An instance.
    Instance {
        /// Qualified name of the object.
        name: String,
        /// Which instance it was.
        id: u64,
        /// Returns the instance of this name in the snapshot that is being built.
        current: fn(&Builder<'_>, &str) -> Option<u64>,
    },
    /// State, whatever it was.
    State(StateKey),
    /// A task.
    Task(Weak<Slot>),
}

/// Name of an object, and of the router it is for (empty when all routers share it).
pub(super) type InstanceKey = (String, String);

/// An instance, or what is wrong with it.
pub(super) type Outcome<T> = Result<Built<T>, BuildError>;

/// The instances of one kind.
pub(super) struct Pool<T: ?Sized>(HashMap<InstanceKey, Outcome<T>>);

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: ?Sized> Pool<T> {
    /// The outcome for a key.
    pub(super) fn get(&self, key: &InstanceKey) -> Option<&Outcome<T>> {
        self.0.get(key)
    }

    /// Adds an outcome.
    pub(super) fn insert(&mut self, key: InstanceKey, outcome: Outcome<T>) {
        self.0.insert(key, outcome);
    }

    /// The names of all objects that were asked for.
    pub(super) fn names(&self) -> BTreeSet<String> {
        self.0.keys().map(|(name, _)| name.clone()).collect()
    }

    /// Drops the instances of all other objects.
    pub(super) fn retain(&mut self, names: &BTreeSet<String>) {
        self.0.retain(|(name, _), _| names.contains(name));
    }

    /// The instances by name, without those that could not be built.
    pub(super) fn sound(&self) -> BTreeMap<String, Arc<T>> {
        let sound = |((name, _), outcome): (&InstanceKey, &Outcome<T>)| {
            Some((name.clone(), outcome.as_ref().ok()?.value.clone()))
        };
        self.0.iter().filter_map(sound).collect()
    }
}

/// Everything that was built, for the next snapshot to take over.
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
    pub(super) states: HashMap<StateKey, State>,
}
