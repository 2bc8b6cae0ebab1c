//! Tests of HTTP/2 and TLS to servers, and of the client for middlewares.

use super::*;

/// Starts an HTTP/2 server that responds with method, target and body length, and a trailer.
async fn http2_server(connections: Arc<AtomicUsize>) -> SocketAddr {
    server(move |_, stream| {
        connections.fetch_add(1, Ordering::SeqCst);
        async move { serve_http2(stream).await }
    })
    .await
}

async fn serve_http2(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static) {
    let service = hyper::service::service_fn(|incoming: http::Request<hyper::body::Incoming>| async move {
        let (head, body) = incoming.into_parts();
        let length = Body::incoming(body).collect(1 << 20).await.map_err(BodyError::from)?.bytes.len();
        let text = format!("{} {} {length}", head.method, head.uri);
        Ok::<_, BodyError>(http::Response::new(Body::boxed(WithTrailer(Some(text.into()), true))))
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(4)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

struct WithTrailer(Option<Bytes>, bool);

impl http_body::Body for WithTrailer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(data) = self.0.take() {
            return std::task::Poll::Ready(Some(Ok(Frame::data(data))));
        }
        let trailers = [("grpc-status", "0")].map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap()));
        let more = std::mem::take(&mut self.1);
        std::task::Poll::Ready(more.then(|| Ok(Frame::trailers(trailers.into_iter().collect()))))
    }
}

#[tokio::test]
async fn http2_shares_connections_and_keeps_trailers() {
    let connections = Arc::new(AtomicUsize::new(0));
    let address = http2_server(connections.clone()).await;
    let endpoint = endpoint("h2c", address);
    let all = futures_util::future::join_all((0..20).map(|_| async {
        text(endpoint.send(request("POST", "/x?y", Body::full("abc"))).await.unwrap()).await
    }))
    .await;
    assert!(all.iter().all(|text| text == "POST http://h.test/x?y 3"), "{all:?}");
    let opened = connections.load(Ordering::SeqCst);
    assert!(opened < 20, "{opened} connections");
    let mut body = endpoint.send(get("/")).await.unwrap().into_body();
    let mut trailers = None;
    while let Some(frame) = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        trailers = frame.unwrap().into_trailers().ok().or(trailers);
    }
    assert_eq!(trailers.unwrap()["grpc-status"], "0");
    assert_eq!(endpoint.in_flight(), 0);
    assert_eq!(connections.load(Ordering::SeqCst), opened);
}

/// Starts a TLS server with the protocol from ALPN, and returns its certificate as PEM.
async fn tls_server() -> (SocketAddr, String) {
    let made = rcgen::generate_simple_self_signed(vec!["tls.test".into()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let address = server(move |_, stream| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                return serve_http2(stream).await;
            }
            let service = hyper::service::service_fn(|_| async {
                Ok::<_, BodyError>(http::Response::new(Body::full("http/1.1")))
            });
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        }
    })
    .await;
    (address, made.cert.pem())
}

#[tokio::test]
async fn tls_verifies_and_negotiates() {
    let (address, pem) = tls_server().await;
    let send = |options: ServersTransport| async move {
        let endpoint = Endpoint::new(&format!("https://{address}"), transport(&options), 1).unwrap();
        Ok::<_, UpstreamError>(text(endpoint.send(get("/")).await?).await)
    };
    let good = ServersTransport { root_cas: vec![pem], server_name: "tls.test".into(), ..Default::default() };
    assert_eq!(send(good.clone()).await.unwrap(), "GET https://h.test/ 0");
    assert_eq!(send(ServersTransport { disable_http2: true, ..good.clone() }).await.unwrap(), "http/1.1");
    let insecure = ServersTransport { insecure_skip_verify: true, ..Default::default() };
    assert!(send(insecure).await.is_ok());
    for bad in [
        ServersTransport { server_name: "other.test".into(), ..good.clone() },
        ServersTransport { peer_cert_uri: "spiffe://x/y".into(), ..good.clone() },
        ServersTransport {
            insecure_skip_verify: true,
            peer_cert_uri: "spiffe://td/web".into(),
            root_cas: vec![rcgen::generate_simple_self_signed(vec!["x".into()]).unwrap().cert.pem()],
            ..Default::default()
        },
        ServersTransport {
            root_cas: vec![rcgen::generate_simple_self_signed(vec!["x".into()]).unwrap().cert.pem()],
            ..good
        },
    ] {
        let error = send(bad).await.unwrap_err();
        assert!(matches!(error, UpstreamError::Tls { .. }), "{error:?}");
        assert_eq!(error.status(), 500);
    }
}

#[tokio::test]
async fn the_client_sends_to_absolute_urls() {
    let address = server(|_, mut stream| async move {
        while let Some(head) = head(&mut stream).await {
            let answer =
                format!("HTTP/1.1 302 F\r\nLocation: /x\r\nContent-Length: {}\r\n\r\n{head}", head.len());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let client = Client::new(1);
    let second = std::time::Duration::from_secs(1);
    let mut request = get(&format!("http://{address}/auth?a=b"));
    request.head.headers.remove("host");
    let response = client.send(request, &ClientTls::default(), second).await.unwrap();
    assert_eq!(response.status(), 302);
    assert_eq!(text(response).await, format!("GET /auth?a=b HTTP/1.1\r\nHost: {address}\r\n\r\n"));
    let error = client.send(get("/relative"), &ClientTls::default(), second).await.unwrap_err();
    assert!(error.to_string().contains("absolute"), "{error}");
    let tls = ClientTls { cert: "x".into(), ..Default::default() };
    assert!(client.send(get("https://127.0.0.1:1/"), &tls, second).await.is_err());
}
