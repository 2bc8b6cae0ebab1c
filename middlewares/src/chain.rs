//! Combines middlewares under one name.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidegate_core::reference::Target;
use tidegate_core::{
    Access, BoxFuture, Build, BuildContext, BuildError, BuildErrors, Member, Middleware, Next, Prediction,
    Request, Response, Verdict,
};

/// Traefik's `chain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Chain {
    /// Names of the middlewares, in order.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub middlewares: Vec<String>,
}

impl Build for Chain {
    /// Its members may be limits or breakers, which count per router.
    const PER_ROUTER: bool = true;

    tidegate_core::references!(Self { middlewares }, visit => {
        for name in middlewares {
            visit(Target::Middleware, name);
        }
    });

    fn build(&self, context: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        // Traefik reports the last faulty member first.
        let member = |name: &String| Ok((Arc::from(name.as_str()), context.middleware(name)?));
        let mut members = BuildErrors::collect(self.middlewares.iter().rev().map(member))?;
        members.reverse();
        Ok(Arc::new(List(members)))
    }

    /// A chain of middlewares that decide who may pass does so too: a request must pass all of them.
    fn access(&self, context: &BuildContext<'_>) -> Option<Access> {
        let members: Option<Vec<Access>> = self.middlewares.iter().map(|name| context.access(name)).collect();
        members.filter(|members| !members.is_empty()).map(Access::of_all)
    }
}

struct List(Vec<Member>);

impl Middleware for List {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let next = Next::new(self.0.iter().map(|(_, member)| member.clone()), next.clone());
        Box::pin(async move { next.run(request).await })
    }

    fn members(&self) -> Option<&[Member]> {
        Some(&self.0)
    }

    fn owns(&self, request: &Request) -> bool {
        self.0.iter().any(|(_, member)| member.owns(request))
    }

    fn revise(&self, request: &Request, response: &mut Response) -> Option<String> {
        let notes: Vec<String> =
            self.0.iter().rev().filter_map(|(_, member)| member.revise(request, response)).collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }

    fn predict(&self, request: Request) -> Prediction {
        let mut joined = Prediction::passes(request);
        for (_, member) in &self.0 {
            let (request, depends) = match joined.verdict {
                Verdict::Passes(request) => (request, false),
                Verdict::Depends(request) => (request, true),
                Verdict::Responds(_) => break,
            };
            let spare = depends.then(|| request.stand_in());
            let next = member.predict(*request);
            joined.notes.extend(next.notes);
            joined.verdict = match (next.verdict, spare) {
                (Verdict::Passes(request), Some(_)) => Verdict::Depends(request),
                // Whether the request gets this far depends on an earlier member.
                (Verdict::Responds(response), Some(spare)) => {
                    return Prediction { verdict: Verdict::Depends(Box::new(spare)), ..joined }
                        .note(format!("then responds with {}", response.status().as_u16()));
                }
                (verdict, _) => verdict,
            };
            joined.response_headers.extend(next.response_headers);
        }
        joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::add_prefix::AddPrefix;
    use crate::testing::{self, World, get};
    use parking_lot::Mutex;
    use tidegate_core::Body;

    fn world() -> World {
        let mut world = World::default();
        for name in ["a", "b"] {
            let prefix = AddPrefix { prefix: format!("/{name}") };
            world.middlewares.insert(format!("{name}@file"), testing::build(prefix));
        }
        world
    }

    fn path_through(names: &[&str]) -> String {
        let options = Chain { middlewares: names.iter().map(|n| (*n).to_owned()).collect() };
        let chain = testing::build_in(&world(), options).unwrap();
        let seen = Arc::new(Mutex::new(String::new()));
        let store = seen.clone();
        let service = testing::Service(move |request: Request| {
            *store.lock() = request.path().to_owned();
            Response::new(Body::empty())
        });
        testing::block_on(testing::run(&chain, get("http://h.test/x"), &service));
        seen.lock().clone()
    }

    #[test]
    fn the_list_runs_in_order() {
        assert_eq!(path_through(&["a", "b"]), "/b/a/x");
        assert_eq!(path_through(&["b@file"]), "/b/x");
        assert_eq!(path_through(&[]), "/x");
    }

    #[test]
    fn a_missing_member_is_an_error() {
        let options = Chain { middlewares: vec!["nope".into()] };
        let error = testing::build_in(&world(), options).err().unwrap();
        assert!(error.to_string().contains("nope@file"), "{error}");
    }
}
