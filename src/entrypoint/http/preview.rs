//! Takes up a request that is not sent, as an entry point would.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tidegate_core::{Body, BuildError, Connection, Context, Exchange, Request, Response, TlsInfo};

use crate::entrypoint::http::aliases::Aliases;
use crate::entrypoint::http::forwarded::ForwardedRules;
use crate::entrypoint::http::prepare::Preparation;
use crate::entrypoint::http::presence::Presence;
use crate::entrypoint::http::target::TargetRules;
use crate::identity::OwnHeaders;
use crate::settings::{EntryPoint, Settings};

/// How an entry point takes up requests.
pub(crate) struct Intake {
    name: Arc<str>,
    target: TargetRules,
    aliases: Aliases,
    own: OwnHeaders,
    forwarded: ForwardedRules,
}

impl Intake {
    /// Reads the settings of an entry point. The error names the option.
    pub(crate) fn new(settings: &Settings, name: &str, options: &EntryPoint) -> Result<Self, BuildError> {
        let append = !settings.global.not_append_x_forwarded_for;
        Ok(Self {
            name: name.into(),
            target: TargetRules::new(&options.http),
            aliases: Aliases::new(&options.http)?,
            own: OwnHeaders::of(settings),
            forwarded: ForwardedRules::new(&options.forwarded_headers, append, None)?,
        })
    }

    /// Takes up a request of HTTP/1.1 from this client. The error is the response to a malformed request.
    pub(crate) fn take_up(
        &self,
        mut head: http::request::Parts,
        body: Body,
        client: SocketAddr,
        tls: Option<TlsInfo>,
    ) -> Result<Request, Box<Response>> {
        let peer = self.forwarded.peer(client.ip(), tls.is_some());
        let presence = Presence::from_headers(&head.headers);
        let preparation = Preparation {
            target: &self.target,
            aliases: self.aliases,
            own: &self.own,
            forwarded: &self.forwarded,
            peer: &peer,
            framed: false,
        };
        let original_target = preparation.apply(&mut head, presence)?.map(Arc::new);
        let connection = Connection {
            peer: client,
            local: client,
            accepted: Instant::now(),
            entry_point: self.name.clone(),
            tls,
            forwarded_for: self.forwarded.appended(&peer),
            identity: None,
        };
        let exchange = Arc::new(Exchange::begin(Arc::new(connection), head.version));
        let context = Context { original_target, ..Context::of(exchange) };
        Ok(Request::new(head, body, context))
    }

    /// Returns true if a normalized path contains an escape that the entry point denies.
    pub(crate) fn denies(&self, path: &str) -> bool {
        self.target.denies(path)
    }
}
