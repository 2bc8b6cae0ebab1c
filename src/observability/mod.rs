//! What is seen of requests: the access log.
