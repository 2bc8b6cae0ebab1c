//! A service with servers: chooses one for each request, and another if the request could not be sent.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{Uri, Version};
use smallvec::SmallVec;
use tidegate_config::service::{LoadBalancer as Options, PassiveHealthCheck, Strategy};
use tidegate_core::{
    Attempt, BoxFuture, Context, Exchange, Handler, OpenSpan, Request, RequestCounters, Response, Spans,
    UpstreamError, boxed, reply,
};

use super::Service;
use super::balance::{Balance, Load};
use super::hold::Hold;
use super::preview::{Choice, Preview, ServerPreview};
use super::server::{Rank, Server};
use super::sticky::Sticky;
use crate::upstream::{Failure, Outgoing};

/// Maximum number of servers tried for a request that could not be sent.
const MAX_SERVERS: usize = 3;
/// How long a request for which a cache has another response waits for a connection to a server. A lost segment is
/// sent again after a second.
const SUBSTITUTED_CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// A service with servers.
pub(super) struct LoadBalancer {
    name: Arc<str>,
    servers: Vec<Candidate>,
    balance: Arc<Balance>,
    sticky: Option<Sticky>,
    counters: Option<Arc<RequestCounters>>,
    passive: Option<PassiveHealthCheck>,
    slow_start: Duration,
    pass_host: bool,
    timed: bool,
    /// Whether the URL of any server has a path to prepend to that of the request.
    prefixes: bool,
    hold: Option<Hold>,
    /// URLs of servers without traffic (weight 0). They are not checked.
    unused: Box<[String]>,
}

/// What a service keeps about its requests besides its servers.
pub(super) struct Outside {
    pub(super) sticky: Option<Sticky>,
    pub(super) counters: Option<Arc<RequestCounters>>,
    pub(super) hold: Option<Hold>,
}

/// A server, as a service uses it.
pub(super) struct Candidate {
    pub(super) server: Arc<Server>,
    pub(super) preserve_path: bool,
    /// Counts its requests, if metrics have its URL.
    pub(super) counters: Option<Arc<RequestCounters>>,
}

impl LoadBalancer {
    pub(super) fn new(
        name: &str,
        options: &Options,
        servers: Vec<Candidate>,
        balance: Arc<Balance>,
        Outside { sticky, counters, hold }: Outside,
    ) -> Self {
        Self {
            prefixes: servers.iter().any(|one| one.preserve_path && !one.server.endpoint().path().is_empty()),
            name: Arc::from(name),
            servers,
            balance,
            sticky,
            counters,
            hold,
            passive: options.passive_health_check.clone(),
            slow_start: options.slow_start.0,
            pass_host: options.pass_host_header,
            timed: options.strategy.known() == Some(Strategy::LeastTime),
            unused: options
                .servers
                .iter()
                .filter(|server| server.weight.is_some_and(|weight| weight <= 0))
                .map(|server| server.url.clone())
                .collect(),
        }
    }

    /// Sends a request to a server. Returns also whether no server took it, and it is still as it was.
    ///
    /// The request stays where its caller has it: moving it to each function behind this one would copy 500 bytes each
    /// time.
    async fn serve(&self, request: &mut Request) -> (Response, bool) {
        let sticky = self.sticky.as_ref().and_then(|sticky| sticky.find(&request.head.headers));
        let original = self.prefixes.then(|| request.head.uri.clone());
        let mut failed = SmallVec::<[usize; MAX_SERVERS]>::new();
        let mut last = UpstreamError::NoServer;
        while failed.len() < MAX_SERVERS {
            let wanted = sticky.filter(|found| self.rank(&request.context, found.index) <= Rank::Unproven);
            let chosen = wanted
                .map(|found| found.index)
                .filter(|index| !failed.contains(index))
                .or_else(|| self.choose(&request.context, &failed));
            let Some(index) = chosen else { break };
            let renew = wanted.is_none_or(|found| found.old || found.index != index);
            if !failed.is_empty() {
                request.context.exchange.replace(last.status().as_u16());
            }
            match self.send(index, request, original.as_ref()).await {
                Ok(mut response) => {
                    self.finish(&mut response, index, renew);
                    return (response, false);
                }
                Err(Failure { error, is_unsent: true }) if error.is_unsent() => {
                    last = error;
                    failed.push(index);
                }
                Err(Failure { error, .. }) => {
                    let mut response = reply::upstream_failure(error);
                    self.finish(&mut response, index, renew);
                    return (response, false);
                }
            }
        }
        if failed.is_empty() {
            self.begin_attempt(&request.context.exchange, None);
        }
        let mut response = reply::upstream_failure(last);
        if let Some(index) = failed.last() {
            self.finish(&mut response, *index, true);
        }
        (response, true)
    }

    /// Sends to one server. The request is as it was if it was not sent.
    async fn send(
        &self,
        index: usize,
        request: &mut Request,
        original: Option<&Uri>,
    ) -> Result<Response, Failure> {
        let candidate = &self.servers[index];
        let Candidate { server, preserve_path, .. } = candidate;
        let endpoint = server.endpoint();
        let Request { head, body, context } = request;
        if !self.pass_host {
            head.headers.insert(HOST, endpoint.authority().clone());
        }
        if let Some(original) = original
            && *preserve_path
            && !endpoint.path().is_empty()
        {
            match prefixed(endpoint.path(), original) {
                Ok(uri) => head.uri = uri,
                Err(error) => return Err(UpstreamError::Internal(error.to_string()).into()),
            }
        }
        let connect_limit = connect_limit(context);
        let Context { exchange, interim, upgrade, .. } = context;
        let attempt = self.begin_attempt(exchange, Some(candidate));
        // Informational responses must not be sent to HTTP/1.0 clients (RFC 9110 section 15.2).
        let interim = interim.as_deref().filter(|_| head.version != Version::HTTP_10);
        let span = exchange.spans().and_then(|spans| begin_span(spans, server, head));
        let outgoing =
            Outgoing { head: &mut *head, body, upgrade, exchange: Some(&*exchange), connect_limit };
        match endpoint.try_send(outgoing, interim).await {
            Ok(response) => {
                server.answered();
                OpenSpan::end_call(span, response.status().as_u16(), response.headers());
                if let Some(attempt) = attempt {
                    note_answer(attempt, &response, exchange.keep_headers);
                    if self.timed {
                        server.took(attempt.took().unwrap_or_default());
                    }
                }
                match &self.passive {
                    Some(passive) if response.status().is_server_error() => {
                        server.failed(passive, || self.may_lose_one(passive));
                    }
                    Some(_) => server.succeeded(),
                    None => {}
                }
                Ok(response)
            }
            Err(failure) => {
                OpenSpan::end(span, failure.error.status().as_u16());
                self.note_failure(server, &failure.error);
                if let Some(attempt) = attempt {
                    attempt.end();
                }
                if let Some(original) = original.filter(|_| failure.is_unsent) {
                    head.uri = original.clone();
                }
                Err(failure)
            }
        }
    }

    fn begin_attempt<'a>(&self, exchange: &'a Exchange, chosen: Option<&Candidate>) -> Option<&'a Attempt> {
        let (server, of_server) =
            chosen.map(|chosen| (chosen.server.info(), chosen.counters.as_ref())).unzip();
        exchange.attempt_counted(&self.name, server, (self.counters.as_ref(), of_server.flatten()))
    }

    fn note_failure(&self, server: &Server, error: &UpstreamError) {
        if error.is_unsent() {
            server.refused();
        }
        if let Some(passive) = &self.passive
            && error.is_network()
        {
            server.failed(passive, || self.may_lose_one(passive));
        }
        tracing::debug!(service = %self.name, server = %server.endpoint().url(), "{error}");
    }

    /// Returns true if one more server may be ejected.
    fn may_lose_one(&self, passive: &PassiveHealthCheck) -> bool {
        let Some(percent) = passive.max_ejected_percent else { return true };
        let out = self.servers.iter().filter(|candidate| candidate.server.is_taken_out()).count();
        (out + 1) * 100 <= self.servers.len() * usize::from(percent)
    }

    fn finish(&self, response: &mut Response, index: usize, renew: bool) {
        if renew && let Some(sticky) = &self.sticky {
            sticky.set(index, response.headers_mut());
        }
    }

    /// Chooses among the servers with the best rank, by the strategy.
    fn choose(&self, context: &Context, failed: &[usize]) -> Option<usize> {
        if self.servers.len() == 1 {
            return (failed.is_empty() && self.rank(context, 0) < Rank::Out).then_some(0);
        }
        let load = self.best(context, failed)?;
        self.balance.choose(context.exchange.connection.peer.ip(), &load)
    }

    /// Returns the load of the servers, of which those with the best rank are allowed; `None` if none is usable.
    fn best<'a>(&'a self, context: &'a Context, failed: &'a [usize]) -> Option<Servers<'a>> {
        let best = (0..self.servers.len())
            .filter(|index| !failed.contains(index))
            .map(|index| self.rank(context, index))
            .min()
            .filter(|rank| *rank < Rank::Out)?;
        Some(Servers { balancer: self, context, failed, best })
    }

    /// Returns the server that is next for a request.
    fn next(&self, request: &Request) -> Choice {
        let sticky = self.sticky.as_ref().and_then(|sticky| sticky.find(&request.head.headers));
        if let Some(found) = sticky.filter(|found| self.rank(&request.context, found.index) <= Rank::Unproven)
        {
            return Choice::Next(found.index);
        }
        match self.best(&request.context, &[]) {
            Some(load) => self.balance.peek(request.context.exchange.connection.peer.ip(), &load),
            None => Choice::Nobody,
        }
    }

    fn preview_server(&self, index: usize, candidate: &Candidate, request: &Request) -> ServerPreview {
        let endpoint = candidate.server.endpoint();
        let is_prefixed = candidate.preserve_path && !endpoint.path().is_empty();
        let target = is_prefixed.then(|| prefixed(endpoint.path(), &request.head.uri).ok()).flatten();
        let host =
            (!self.pass_host).then(|| String::from_utf8_lossy(endpoint.authority().as_bytes()).into_owned());
        ServerPreview {
            url: endpoint.url().to_string(),
            state: candidate.server.state_name(),
            weight: self.balance.weight(index),
            in_flight: endpoint.in_flight(),
            target,
            host,
        }
    }

    fn rank(&self, context: &Context, index: usize) -> Rank {
        let server = &self.servers[index].server;
        let rank = server.rank();
        if rank < Rank::Tried && context.exchange.has_tried(server.info().id) { Rank::Tried } else { rank }
    }
}

/// The load of the servers for one request.
struct Servers<'a> {
    balancer: &'a LoadBalancer,
    context: &'a Context,
    failed: &'a [usize],
    best: Rank,
}

impl Load for Servers<'_> {
    fn allowed(&self, index: usize) -> bool {
        !self.failed.contains(&index) && self.balancer.rank(self.context, index) <= self.best
    }

    fn in_flight(&self, index: usize) -> usize {
        self.balancer.servers[index].server.endpoint().in_flight()
    }

    fn mean_time(&self, index: usize) -> Option<f64> {
        self.balancer.servers[index].server.mean_time()
    }

    fn share(&self, index: usize) -> f64 {
        if self.balancer.slow_start.is_zero() {
            return 1.0;
        }
        self.balancer.servers[index].server.share(self.balancer.slow_start)
    }
}

impl Handler for LoadBalancer {
    fn call<'a>(&'a self, mut request: Request) -> BoxFuture<'a, Response> {
        match &self.hold {
            None => boxed(move || async move { self.serve(&mut request).await.0 }),
            Some(hold) => boxed(move || async move {
                match self.serve(&mut request).await {
                    (_, true) => Box::pin(hold.wait(request)).await,
                    (response, false) => response,
                }
            }),
        }
    }
}

impl Service for LoadBalancer {
    fn is_up(&self) -> bool {
        self.servers.iter().any(|candidate| candidate.server.is_up())
    }

    fn held(&self) -> usize {
        self.hold.as_ref().map_or(0, |hold| hold.queue.waiting())
    }

    fn try_call<'a>(
        &'a self,
        mut request: Request,
        unsent: &'a mut Option<Request>,
    ) -> BoxFuture<'a, Response> {
        boxed(move || async move {
            let (response, is_unsent) = self.serve(&mut request).await;
            *unsent = is_unsent.then_some(request);
            response
        })
    }

    fn server_status(&self) -> BTreeMap<String, &'static str> {
        let status = |server: &Server| if server.is_up() { "UP" } else { "DOWN" };
        let unused = self.unused.iter().map(|url| (url.clone(), "UP"));
        let servers = self.servers.iter().map(|candidate| &candidate.server);
        unused.chain(servers.map(|server| (server.endpoint().url().to_string(), status(server)))).collect()
    }

    fn preview(&self, request: &Request) -> Preview {
        let servers = self.servers.iter().enumerate();
        let servers = servers.map(|(index, candidate)| self.preview_server(index, candidate, request));
        let unused = self.unused.iter().map(|url| ServerPreview {
            url: url.clone(),
            state: "up",
            weight: 0.0,
            in_flight: 0,
            target: None,
            host: None,
        });
        Preview::Servers(servers.chain(unused).collect(), self.next(request))
    }
}

/// Returns the target with the path of the server's URL prepended.
fn prefixed(base: &str, original: &Uri) -> Result<Uri, http::uri::InvalidUri> {
    let target = original.path_and_query().map_or("/", PathAndQuery::as_str);
    PathAndQuery::try_from(format!("{base}{target}")).map(Uri::from)
}

/// Returns how long a request waits for a connection, if not for as long as the transport allows.
fn connect_limit(context: &Context) -> Option<Duration> {
    context.has_substitute.then_some(SUBSTITUTED_CONNECT_LIMIT)
}

/// Begins the span of an attempt, and writes it into the headers of the request.
fn begin_span(spans: &Arc<Spans>, server: &Server, head: &mut http::request::Parts) -> Option<OpenSpan> {
    let span = spans.is_recording().then(|| {
        let target = head.uri.path_and_query().map_or("/", PathAndQuery::as_str);
        let url = server.endpoint().url().to_string();
        let authority = url.find("://").map_or(0, |at| at + 3);
        let end = url[authority..].find('/').map_or(url.len(), |at| authority + at);
        let url = format!("{}{target}", &url[..end]).into();
        spans.begin_call("ReverseProxy", url, head)
    });
    spans.inject(&mut head.headers);
    span.flatten()
}

fn note_answer(attempt: &Attempt, response: &Response, keep_headers: bool) {
    attempt.answer(response.status().as_u16(), http_body::Body::size_hint(&response.body).exact());
    if keep_headers {
        attempt.keep_headers(response.headers());
    }
}
