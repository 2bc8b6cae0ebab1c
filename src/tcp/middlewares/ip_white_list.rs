//! The deprecated alias of [`super::ip_allow_list`].

use std::sync::Arc;

use tidegate_config::tcp::TcpIpAllowList;
use tidegate_core::BuildError;

use super::Middleware;
use super::ip_allow_list::IpAllowList;

/// Builds Traefik's TCP `ipWhiteList`.
pub(super) fn build(options: &TcpIpAllowList) -> Result<Arc<dyn Middleware>, BuildError> {
    if options.source_range.is_empty() {
        return Err(BuildError::new("sourceRange is empty, IPWhiteLister not created"));
    }
    Ok(Arc::new(IpAllowList::new(options)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_an_allow_list() {
        let options = TcpIpAllowList { source_range: vec!["10.0.0.0/8".into()] };
        let connection = tidegate_core::Connection::plain("10.0.0.1:1".parse().unwrap());
        assert!(build(&options).unwrap().admit(&connection).is_ok());
        let error = build(&TcpIpAllowList::default()).err().unwrap();
        assert_eq!(error.to_string(), "sourceRange is empty, IPWhiteLister not created");
    }
}
