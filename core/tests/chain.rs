//! What a middleware can do with the rest of its chain, beside passing a request on.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tidegate_core::{
    Body, BoxFuture, Connection, Context, Handler, Member, Middleware, Next, Request, Response,
};
use tokio::sync::Semaphore;

/// Answers from memory, and gets a newer answer in the background.
#[derive(Default)]
struct Remembers {
    last: Arc<Mutex<Option<Bytes>>>,
}

impl Middleware for Remembers {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let (next, last) = (next.clone(), self.last.clone());
        let known = last.lock().clone();
        let refresh = async move {
            let body = next.run(request).await.into_body().collect(1024).await.unwrap().bytes;
            *last.lock() = Some(body.clone());
            body
        };
        Box::pin(async move {
            match known {
                Some(known) => {
                    tokio::spawn(refresh);
                    Response::new(Body::full(known))
                }
                None => Response::new(Body::full(refresh.await)),
            }
        })
    }
}

/// Puts a letter before the path.
struct Letter(char);

impl Middleware for Letter {
    fn handle<'a>(&'a self, mut request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        let path = format!("/{}{}", self.0, request.path());
        request.set_path(&path).unwrap();
        next.run(request)
    }
}

/// Several middlewares under one name.
struct Several(Vec<Member>);

impl Middleware for Several {
    fn handle<'a>(&'a self, _: Request, _: &'a Next) -> BoxFuture<'a, Response> {
        unreachable!("its members are in the chain")
    }

    fn members(&self) -> Option<&[Member]> {
        Some(&self.0)
    }
}

/// Answers with its path and how often it was asked, once it is let.
struct Service {
    asked: AtomicUsize,
    lets: Semaphore,
}

impl Handler for Service {
    fn call<'a>(&'a self, request: Request) -> BoxFuture<'a, Response> {
        Box::pin(async move {
            self.lets.acquire().await.unwrap().forget();
            let asked = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            Response::new(Body::full(format!("{} {asked}", request.path())))
        })
    }
}

fn service(lets: usize) -> Arc<Service> {
    Arc::new(Service { asked: AtomicUsize::new(0), lets: Semaphore::new(lets) })
}

fn request(path: &str) -> Request {
    let (head, ()) = http::Request::builder().uri(path).body(()).unwrap().into_parts();
    let context = Context::new(Arc::new(Connection::plain(([127, 0, 0, 1], 1).into())));
    Request::new(head, Body::empty(), context)
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect(1024).await.unwrap().bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn an_answer_from_memory_is_refreshed_after_its_client_and_the_chain_are_gone() {
    let service = service(1);
    let remembers = Arc::new(Remembers::default());
    let last = remembers.last.clone();
    let middlewares: [Arc<dyn Middleware>; 2] = [remembers, Arc::new(Letter('a'))];
    let chain = Next::new(middlewares, Next::service(service.clone()));
    assert_eq!(text(chain.run(request("/x")).await).await, "/a/x 1");
    assert_eq!(text(chain.run(request("/x")).await).await, "/a/x 1", "although the service does not answer");
    drop(chain);
    service.lets.add_permits(1);
    tokio::time::timeout(Duration::from_secs(60), async {
        while last.lock().as_deref() != Some(b"/a/x 2") {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn middlewares_that_consist_of_others_are_compiled_into_the_chain() {
    let letter = |letter| Arc::new(Letter(letter)) as Arc<dyn Middleware>;
    let several = |members: Vec<Arc<dyn Middleware>>| {
        Arc::new(Several(members.into_iter().map(|member| ("m@file".into(), member)).collect()))
            as Arc<dyn Middleware>
    };
    let inner = several(vec![letter('b'), several(Vec::new()), letter('c')]);
    let outer = several(vec![inner, letter('d')]);
    let chain = Next::new([letter('a'), outer, letter('e')], Next::service(service(1)));
    assert_eq!(chain.middlewares().count(), 5);
    assert_eq!(text(chain.run(request("/x")).await).await, "/e/d/c/b/a/x 1");
}
