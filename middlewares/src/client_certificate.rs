//! Requires a verified client certificate, or one of a consumer, on some routers of a host.

use std::sync::Arc;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tidegate_core::values::is_default;
use tidegate_core::{
    AuthMethod, BoxFuture, Build, BuildContext, BuildError, Middleware, Next, Prediction, Reason, Request,
    Response, reply,
};

/// Not in Traefik. Clients without a certificate that the TLS options have verified get 403.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ClientCertificate {
    /// Accepts clients without a certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub optional: bool,
    /// Refuses certificates that are not those of a consumer.
    #[serde(skip_serializing_if = "is_default")]
    pub require_consumer: bool,
}

impl Build for ClientCertificate {
    fn build(&self, _: &BuildContext<'_>) -> Result<Arc<dyn Middleware>, BuildError> {
        if self.optional && !self.require_consumer {
            return Err(BuildError::new("optional: refuses nobody without `requireConsumer`"));
        }
        Ok(Arc::new(Requirement { optional: self.optional, consumer: self.require_consumer }))
    }

    fn access(&self, _: &BuildContext<'_>) -> Option<tidegate_core::Access> {
        Some(tidegate_core::Access::by_head())
    }
}

struct Requirement {
    optional: bool,
    consumer: bool,
}

impl Requirement {
    /// Returns why a request is refused.
    fn refusal(&self, request: &Request) -> Option<Reason> {
        let context = &request.context;
        if context.exchange.connection.identity.is_none() {
            return (!self.optional).then_some(Reason::CertificateRequired);
        }
        // Whatever else has authenticated the client may have replaced the certificate's identity.
        let identity = context.identity.as_ref().filter(|one| one.method == AuthMethod::Certificate);
        let is_known = identity.is_some_and(|identity| identity.consumer.is_some());
        (self.consumer && !is_known).then_some(Reason::CertificateUnknown)
    }
}

fn refused(reason: Reason) -> Response {
    reply::status_text(StatusCode::FORBIDDEN, reason)
}

impl Middleware for Requirement {
    fn handle<'a>(&'a self, request: Request, next: &'a Next) -> BoxFuture<'a, Response> {
        match self.refusal(&request) {
            None => next.run(request),
            Some(reason) => crate::ready(refused(reason)),
        }
    }

    fn predict(&self, request: Request) -> Prediction {
        let connection = &request.context.exchange.connection;
        if connection.tls.is_some() && connection.identity.is_none() {
            return Prediction::depends(request, "the client's certificate");
        }
        match self.refusal(&request) {
            None => Prediction::passes(request).note("the client's certificate is verified"),
            Some(reason) => Prediction::responds(refused(reason)).note("there is no client certificate"),
        }
    }
}

#[cfg(test)]
mod tests {
    use tidegate_core::{Body, Connection, Consumer, Context, Identity, TlsInfo, Verdict};

    use super::*;
    use crate::testing::{self, World, get};

    fn built(optional: bool, require_consumer: bool) -> Result<Arc<dyn Middleware>, BuildError> {
        let options = ClientCertificate { optional, require_consumer };
        options.build(&BuildContext::new("m@file", &World::default()))
    }

    /// Returns a request of a client with a certificate.
    fn with_certificate() -> Request {
        let mut request = get("https://a.test/");
        let identity = Identity::new("CN=ann", AuthMethod::Certificate, "mtls@file".into());
        let connection = Connection {
            tls: Some(TlsInfo::default()),
            identity: Some(Arc::new(identity)),
            ..Connection::plain(([127, 0, 0, 1], 4000).into())
        };
        request.context = Context::new(Arc::new(connection));
        request
    }

    fn outcome(middleware: &Arc<dyn Middleware>, request: Request) -> (u16, Option<Reason>) {
        let service = testing::Service(|_| Response::new(Body::empty()));
        let response = testing::block_on(testing::run(middleware, request, &service));
        (response.status().as_u16(), response.reason)
    }

    #[test]
    fn certificates_and_consumers_are_required() {
        let required = built(false, false).unwrap();
        assert_eq!(outcome(&required, get("https://a.test/")), (403, Some(Reason::CertificateRequired)));
        assert_eq!(outcome(&required, get("http://a.test/")), (403, Some(Reason::CertificateRequired)));
        assert_eq!(outcome(&required, with_certificate()), (200, None));
        let known = built(false, true).unwrap();
        assert_eq!(outcome(&known, get("https://a.test/")), (403, Some(Reason::CertificateRequired)));
        assert_eq!(outcome(&known, with_certificate()), (403, Some(Reason::CertificateUnknown)));
        let consumer = Consumer { name: "acme@file".into(), ..Consumer::default() };
        let as_consumer = |method| {
            let mut request = with_certificate();
            let identity = Identity::new("ann", method, "m@file".into());
            request.context.identify(identity.of_consumer(Some(Arc::new(consumer.clone()))));
            request
        };
        assert_eq!(outcome(&known, as_consumer(AuthMethod::Certificate)), (200, None));
        let other = outcome(&known, as_consumer(AuthMethod::Basic));
        assert_eq!(other, (403, Some(Reason::CertificateUnknown)), "not by its certificate");
        let optional = built(true, true).unwrap();
        assert_eq!(outcome(&optional, get("https://a.test/")), (200, None));
        assert_eq!(outcome(&optional, with_certificate()), (403, Some(Reason::CertificateUnknown)));
        assert!(built(true, false).is_err());
    }

    #[test]
    fn predictions_depend_on_the_handshake() {
        let required = built(false, false).unwrap();
        assert!(matches!(required.predict(get("https://a.test/")).verdict, Verdict::Depends(_)));
        assert!(matches!(required.predict(get("http://a.test/")).verdict, Verdict::Responds(_)));
        assert!(matches!(required.predict(with_certificate()).verdict, Verdict::Passes(_)));
    }
}
