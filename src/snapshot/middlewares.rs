//! Builds HTTP middlewares with their conditions.

use std::sync::Arc;

use tidegate_config::middleware::Middleware as Options;
use tidegate_core::{BuildContext, BuildError, Middleware};

use super::builder::{Builder, Component, Instances, Pool, Scope};
use super::conditional::Conditional;
use crate::router::Rule;

impl Component for Options {
    type Instance = dyn Middleware;

    const SCOPE: Scope = Scope::Router;

    fn pool(instances: &Instances) -> &Pool<dyn Middleware> {
        &instances.middlewares
    }

    fn pool_mut(instances: &mut Instances) -> &mut Pool<dyn Middleware> {
        &mut instances.middlewares
    }

    fn missing(name: &str) -> String {
        format!("middleware \"{name}\" does not exist")
    }

    fn is_per_router(&self) -> bool {
        self.options.is_per_router()
    }

    fn build(&self, builder: &Builder<'_>, name: &str) -> Result<Arc<dyn Middleware>, BuildError> {
        let router = if self.is_per_router() { builder.router() } else { String::new() };
        let condition = match self.when.as_str() {
            "" => None,
            text => Some(Rule::parse(text).map_err(|error| BuildError::new(format!("when: {error}")))?),
        };
        let context = BuildContext::new(name, builder).instance(self.options.kind(), &router);
        let built = self.options.build(&context)?;
        Ok(match condition {
            None => built,
            Some(condition) => Arc::new(Conditional::new(condition, built, self.options.access(&context))),
        })
    }
}
