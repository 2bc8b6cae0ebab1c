//! Middlewares whose kind is known only at run time, such as plug-ins.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use tidegate_core::reference::{Visit, VisitMut};
use tidegate_core::{Access, Build, BuildContext, BuildError, Middleware};

/// The traits that the options of such a kind need. Implemented for every type that has them.
pub trait RuntimeOptions: Build + Serialize + Clone + PartialEq + fmt::Debug + Send + Sync + 'static {}

impl<T: Build + Serialize + Clone + PartialEq + fmt::Debug + Send + Sync + 'static> RuntimeOptions for T {}

/// The options of a middleware of such a kind.
pub struct Runtime {
    kind: Arc<str>,
    options: Box<dyn Erased>,
}

impl Runtime {
    /// Wraps the options of the kind with this key.
    pub fn new(kind: Arc<str>, options: impl RuntimeOptions) -> Self {
        Self { kind, options: Box::new(options) }
    }

    /// Returns the key of the kind.
    pub fn kind(&self) -> &str {
        &self.kind
    }

    pub(crate) fn is_per_router(&self) -> bool {
        self.options.is_per_router()
    }
}

impl Build for Runtime {
    fn references(&self, visit: &mut Visit<'_>) {
        self.options.references(visit);
    }

    fn references_mut(&mut self, visit: &mut VisitMut<'_>) {
        self.options.references_mut(visit);
    }

    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        self.options.build(context)
    }

    fn access(&self, context: &BuildContext<'_>) -> Option<Access> {
        self.options.access(context)
    }
}

impl Clone for Runtime {
    fn clone(&self) -> Self {
        Self { kind: self.kind.clone(), options: self.options.boxed() }
    }
}

impl PartialEq for Runtime {
    fn eq(&self, other: &Self) -> bool {
        self.kind == other.kind && self.options.equals(&*other.options)
    }
}

impl fmt::Debug for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:?})", self.kind, self.options)
    }
}

impl Serialize for Runtime {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.options.json().map_err(serde::ser::Error::custom)?.serialize(serializer)
    }
}

/// Type-erased options.
trait Erased: fmt::Debug + Send + Sync {
    fn is_per_router(&self) -> bool;
    fn references(&self, visit: &mut Visit<'_>);
    fn references_mut(&mut self, visit: &mut VisitMut<'_>);
    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError>;
    fn access(&self, context: &BuildContext<'_>) -> Option<Access>;
    fn boxed(&self) -> Box<dyn Erased>;
    fn any(&self) -> &dyn Any;
    fn equals(&self, other: &dyn Erased) -> bool;
    fn json(&self) -> serde_json::Result<serde_json::Value>;
}

impl<T: RuntimeOptions> Erased for T {
    fn is_per_router(&self) -> bool {
        T::PER_ROUTER
    }

    fn references(&self, visit: &mut Visit<'_>) {
        Build::references(self, visit);
    }

    fn references_mut(&mut self, visit: &mut VisitMut<'_>) {
        Build::references_mut(self, visit);
    }

    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        Build::build(self, context)
    }

    fn access(&self, context: &BuildContext<'_>) -> Option<Access> {
        Build::access(self, context)
    }

    fn boxed(&self) -> Box<dyn Erased> {
        Box::new(self.clone())
    }

    fn any(&self) -> &dyn Any {
        self
    }

    fn equals(&self, other: &dyn Erased) -> bool {
        other.any().downcast_ref::<T>().is_some_and(|other| self == other)
    }

    fn json(&self) -> serde_json::Result<serde_json::Value> {
        serde_json::to_value(self)
    }
}
